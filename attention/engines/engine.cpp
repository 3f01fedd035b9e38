#include "tessera/attention/engines/engine.h"

#include <atomic>
#include <cmath>

#include "tessera/attention/engines/engine_cuda.h"
#include "tessera/attention/engines/entry_rule.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/view.h"

namespace tessera {
namespace {

std::atomic<int64_t> entries_computed{0};

}  // namespace

int64_t score_entries() {
  int64_t entries = entries_computed;
  if constexpr (kCuda) entries += engine::entries_on_devices();
  return entries;
}
void count_score_entries(int64_t entries) {
  entries_computed += entries;
}

namespace engine {

double scale_of(const AttentionOptions& options, const Tensor& query) {
  return options.scale != 0 ? options.scale : 1 / std::sqrt(static_cast<double>(query.size(-1)));
}

void check_inputs(std::string_view op, const Tensor& query, const Tensor& key,
                  const Tensor& value) {
  check(query.rank() == 4 && key.rank() == 4 && value.rank() == 4,
        "{}: wants (B, H, N, D), got {}, {}, {}", op, query.shape(), key.shape(), value.shape());
  check(query.size(0) == key.size(0) && query.size(3) == key.size(3) &&
            key.size(0) == value.size(0) && key.size(1) == value.size(1) &&
            key.size(2) == value.size(2),
        "{}: query {}, key {} and value {} do not fit one another", op, query.shape(), key.shape(),
        value.shape());
  check(key.size(1) > 0 && query.size(1) % key.size(1) == 0,
        "{}: {} query heads are not a multiple of {} key heads", op, query.size(1), key.size(1));
  check(query.dtype() == key.dtype() && key.dtype() == value.dtype(),
        "{}: dtypes differ: {}, {}, {}", op, query.dtype(), key.dtype(), value.dtype());
  check(query.device() == key.device() && key.device() == value.device(),
        "{}: devices differ: {}, {}, {}", op, query.device(), key.device(), value.device());
}

void check_tables(std::string_view op, const Score& score, const Tensor& query, int64_t keys) {
  const ScoreSizes sizes{query.size(0), query.size(1), query.size(2), keys};
  int number = 0;
  for (const Tensor& table : score.tables()) {
    const ScoreKernels& kernels = score.kernels();
    const Shape wanted = kernels.table_shape(kernels.functor, number++, sizes);
    check(table.shape() == wanted,
          "{}: a table of {} is {}; for scores ({}, {}, {}, {}) it must be {}", op, score.name(),
          table.shape(), sizes.batch, sizes.heads, sizes.queries, sizes.keys, wanted);
  }
}

TensorList score_tables(std::string_view op, const Score& score, const Tensor& query,
                        int64_t keys) {
  check_tables(op, score, query, keys);
  TensorList tables;
  for (const Tensor& table : score.tables()) {
    tables.push_back(table.to(is_half(query.dtype()) ? DType::f32 : query.dtype()));
  }
  return tables;
}

bool wants_tables(const Backward& b) {
  const size_t inputs = b.input_list().size();
  bool wants = false;
  for (size_t i = 3; i < inputs; ++i) wants |= b.needs(static_cast<int>(i));
  return wants;
}

int64_t window_entries(int64_t queries, int64_t keys, int64_t left, int64_t right) {
  // Σ_i of first + i, cut to [0, keys].
  auto sum_from = [&](int64_t first) {
    const int64_t begin = std::clamp<int64_t>(first, 0, keys);
    const int64_t end = std::clamp<int64_t>(first + queries, 0, keys);
    const int64_t above = std::max<int64_t>(0, first + queries - std::max(first, keys));
    return (end * (end - 1) - begin * (begin - 1)) / 2 + above * keys;
  };
  const int64_t ahead = keys - queries;  // position of query 0
  const int64_t until = right < 0 ? queries * keys : sum_from(ahead + right + 1);
  return until - (left < 0 ? 0 : sum_from(ahead - left));
}

Tensor empty_heads(const Shape& shape, DType dtype, Device device) {
  return views::transpose(empty({shape[0], shape[2], shape[1], shape[3]}, {dtype, device}), 1, 2);
}

// A product of matrices cannot have rows that overlap, as those of an expanded tensor do.
Tensor with_dense_rows(const Tensor& x) {
  const bool dense = x.size(-1) <= 1 || x.stride(-1) == 1;
  const bool apart = x.rank() < 2 || x.size(-2) <= 1 || x.stride(-2) >= x.size(-1);
  return dense && apart ? x : kernels::contiguous(x);
}

}  // namespace engine

namespace {

// Checks (B|1, H|1, n) and gives it as a lookup.
Lookup lookup(std::string_view op, std::string_view what, const Tensor& x, int64_t batch,
              int64_t heads, int64_t n, Device device, TensorList& keep) {
  check(x.rank() == 3 && (x.size(0) == batch || x.size(0) == 1) &&
            (x.size(1) == heads || x.size(1) == 1) && x.size(2) == n,
        "{}: {} is {}, wants ({} or 1, {} or 1, {})", op, what, x.shape(), batch, heads, n);
  check(x.dtype() == DType::i32, "{}: {} is {}, wants i32", op, what, x.dtype());
  check(x.device() == device, "{}: {} is on {}, the queries on {}", op, what, x.device(), device);
  keep.push_back(x.size(2) <= 1 || x.stride(2) == 1 ? x : kernels::contiguous(x));
  const Tensor& dense = keep.back();
  return {static_cast<const int32_t*>(dense.raw_data()), x.size(0) == 1 ? 0 : dense.stride(0),
          x.size(1) == 1 ? 0 : dense.stride(1)};
}

int bound(std::string_view op, std::string_view what, int64_t n) {
  check(n >= -1 && n < INT_MAX, "{}: {} is {}; it must be −1 (no bound) or a number of tokens", op,
        what, n);
  return n < 0 ? INT_MAX : static_cast<int>(n);
}

}  // namespace

EntryRule::EntryRule(std::string_view op, const AttentionOptions& o, const Shape& query,
                     const Shape& key, Device device, TensorList& keep) {
  const int64_t batch = query[0], heads = query[1];
  for (const Shape* s : {&query, &key}) {
    check((*s)[2] < int64_t{1} << 30, "{}: {} is too long", op, *s);
  }
  queries = static_cast<int>(query[2]);
  keys = static_cast<int>(key[2]);
  left = bound(op, "left", o.left);
  right = o.causal ? 0 : bound(op, "right", o.right);
  check(!o.causal || o.right <= 0, "{}: causal, yet right is {}", op, o.right);
  auto set = [&](Lookup& to, std::string_view what, const Tensor& x, int64_t n) {
    if (x.defined()) to = lookup(op, what, x, batch, heads, n, device, keep);
  };
  set(query_position, "query_positions", o.query_positions, queries);
  set(key_position, "key_positions", o.key_positions, keys);
  set(query_segment, "query_segments", o.query_segments, queries);
  set(key_segment, "key_segments", o.key_segments, keys);
  set(key_begin, "key_begin", o.key_begin, queries);
  set(key_end, "key_end", o.key_end, queries);
  check(query_segment.is_set() == key_segment.is_set(),
        "{}: query_segments and key_segments go together", op);
  if (o.key_lengths.defined()) {
    const Tensor& x = o.key_lengths;
    check(x.rank() == 1 && x.size(0) == batch, "{}: key_lengths is {}, wants ({})", op, x.shape(),
          batch);
    key_length = lookup(op, "key_lengths", views::unsqueeze(views::unsqueeze(x, 1), 2), batch, 1, 1,
                        device, keep);
  }
}

}  // namespace tessera
