// Which entries of the scores count, as kernels on both devices ask it: the options of the engines
// as plain data.
#pragma once

#include <climits>

#include "tessera/attention/engines/score_functor.h"
#include "tessera/core/tensor.h"

namespace tessera {

struct AttentionOptions;  // engine.h

// An i32 tensor (B|1, H|1, N), dense in its last dimension.
struct Lookup {
  const int32_t* data = nullptr;
  int64_t batch = 0, head = 0;
  TESSERA_HD int at(int b, int h, int i) const { return data[b * batch + h * head + i]; }
  TESSERA_HD bool is_set() const { return data != nullptr; }
};

struct IndexRange {
  int begin = 0, end = 0;  // [begin, end)
  TESSERA_HD bool contains(int i) const { return i >= begin && i < end; }
  TESSERA_HD bool is_empty() const { return end <= begin; }
};

// What decides whether a query sees a key, looked up once for each of them. Nobody has index −1.
struct QueryFacts {
  int index = -1, begin = 0, end = 0;  // the only keys it may see
  int position = 0, segment = 0;
};
struct KeyFacts {
  int index = -1, position = 0, segment = 0;
};

struct EntryRule {
  int queries = 0, keys = 0;
  int left = INT_MAX, right = INT_MAX;  // window in positions; causal: right = 0
  Lookup key_length, query_position, key_position, query_segment, key_segment, key_begin, key_end;

  EntryRule() = default;
  // Checks the tensors of `options`, whose errors begin with `op`; `keep` holds what the pointers
  // need.
  EntryRule(std::string_view op, const AttentionOptions& options, const Shape& query,
            const Shape& key, Device device, TensorList& keep);

  TESSERA_HD int position_of_query(int b, int h, int i) const {
    return query_position.is_set() ? query_position.at(b, h, i) : i + keys - queries;
  }
  TESSERA_HD int position_of_key(int b, int h, int j) const {
    return key_position.is_set() ? key_position.at(b, h, j) : j;
  }
  TESSERA_HD ScorePlace place(int b, int h, int i, int j) const {
    return {b, h, i, j, position_of_query(b, h, i), position_of_key(b, h, j)};
  }
  // Whether `visible` says more than `keys_of`.
  TESSERA_HD bool is_range() const { return !key_position.is_set() && !query_segment.is_set(); }
  TESSERA_HD bool has_window() const { return left != INT_MAX || right != INT_MAX; }

  // The only keys that query i may see.
  TESSERA_HD IndexRange keys_of(int b, int h, int i) const {
    IndexRange r{0, keys};
    if (key_length.is_set()) r.end = least(r.end, key_length.at(b, 0, 0));
    if (key_begin.is_set()) r.begin = most(r.begin, key_begin.at(b, h, i));
    if (key_end.is_set()) r.end = least(r.end, key_end.at(b, h, i));
    if (!key_position.is_set() && has_window()) {
      const int p = position_of_query(b, h, i);
      if (left != INT_MAX) r.begin = most(r.begin, p - left);
      if (right != INT_MAX) r.end = least(r.end, p + right + 1);
    }
    return r;
  }
  TESSERA_HD QueryFacts facts_of_query(int b, int h, int i) const {
    if (i < 0) return {};
    const IndexRange r = keys_of(b, h, i);
    return {i, r.begin, r.end, position_of_query(b, h, i),
            query_segment.is_set() ? query_segment.at(b, h, i) : 0};
  }
  TESSERA_HD KeyFacts facts_of_key(int b, int h, int j) const {
    if (j < 0) return {};
    return {j, position_of_key(b, h, j), key_segment.is_set() ? key_segment.at(b, h, j) : 0};
  }
  TESSERA_HD bool visible(const QueryFacts& q, const KeyFacts& k) const {
    bool sees = (k.index >= q.begin) & (k.index < q.end) & (k.segment == q.segment);
    if (key_position.is_set() && has_window()) {
      const int ahead = k.position - q.position;
      sees = sees & (ahead <= right) & (left == INT_MAX || ahead >= -left);
    }
    return sees;
  }
  TESSERA_HD bool visible(int b, int h, int i, int j) const {
    return visible(facts_of_query(b, h, i), facts_of_key(b, h, j));
  }
  // The only keys that queries [begin, end) may see.
  TESSERA_HD IndexRange keys_of(int b, int h, int begin, int end) const {
    IndexRange r{keys, 0};
    if (!query_position.is_set() && !key_begin.is_set() && !key_end.is_set()) {
      r = {keys_of(b, h, begin).begin, keys_of(b, h, end - 1).end};
    } else {
      for (int i = begin; i < end; ++i) {
        const IndexRange one = keys_of(b, h, i);
        if (one.is_empty()) continue;
        r = {least(r.begin, one.begin), most(r.end, one.end)};
      }
    }
    return r;
  }
  // The only queries that may see keys [begin, end).
  TESSERA_HD IndexRange queries_of(int b, int begin, int end) const {
    IndexRange r{0, queries};
    if (key_length.is_set() && begin >= key_length.at(b, 0, 0)) return {0, 0};
    if (query_position.is_set() || key_position.is_set()) return r;
    const int ahead = keys - queries;  // of query 0
    if (right != INT_MAX) r.begin = most(r.begin, begin - right - ahead);
    if (left != INT_MAX) r.end = least(r.end, end - 1 + left - ahead + 1);
    return r;
  }

 private:
  static TESSERA_HD int least(int a, int b) { return a < b ? a : b; }
  static TESSERA_HD int most(int a, int b) { return a > b ? a : b; }
};

}  // namespace tessera
