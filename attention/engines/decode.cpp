#include "tessera/attention/engines/decode.h"

#include <array>
#include <cmath>
#include <limits>

#include "tessera/attention/engines/decode_cuda.h"
#include "tessera/attention/engines/dense.h"
#include "tessera/autograd/ops/comparison.h"
#include "tessera/autograd/tape.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/math.h"
#include "tessera/core/parallel.h"
#include "tessera/core/view.h"

namespace tessera {
namespace {

using decode::Problem;

constexpr int kTile = 32;  // keys whose scores are kept

// One row of a (B, H, N, D) tensor.
template <class T>
struct Rows {
  T* data = nullptr;
  int64_t batch = 0, head = 0, row = 0;

  explicit Rows(const Tensor& x)
      : data(x.data<std::remove_const_t<T>>()),
        batch(x.stride(0)),
        head(x.stride(1)),
        row(x.stride(2)) {}
  T* at(int64_t b, int64_t h, int64_t i) const { return data + b * batch + h * head + i * row; }
};

// Which keys a sequence has and which of them its queries see.
struct Keys {
  const Problem& p;
  const int32_t* lengths;
  const int32_t* added;
  const int32_t* table;
  const int32_t* list;
  bool listed;

  explicit Keys(const Problem& problem)
      : p(problem),
        lengths(data_of(problem.cache.lengths)),
        added(data_of(problem.cache.added)),
        table(data_of(problem.cache.table)),
        list(data_of(problem.options.selected)),
        listed(problem.options.selected.defined()) {}

  int length(int64_t b) const {
    return lengths != nullptr ? std::clamp(lengths[b], 0, static_cast<int>(p.capacity))
                              : static_cast<int>(p.capacity);
  }
  int tokens(int64_t b) const {
    const int n = static_cast<int>(p.query.size(2));
    return added != nullptr ? std::clamp(added[b], 0, n) : n;
  }
  // Keys of a sequence, or places of its list.
  int slots(int64_t b) const { return listed ? static_cast<int>(p.selected()) : length(b); }
  // The key in a place, −1 for none.
  int64_t position(int64_t b, int64_t h, int64_t slot) const {
    if (!listed) return slot;
    const Tensor& s = p.options.selected;
    const int64_t size = p.options.selected_size;
    const int64_t entry = list[b * s.stride(0) + h * s.stride(1) + slot / size * s.stride(2)];
    const int64_t at = entry * size + slot % size;
    return entry >= 0 && at < length(b) ? at : -1;
  }
  template <class S>
  const S* row(const Rows<const S>& x, int64_t b, int64_t h, int64_t position) const {
    if (table == nullptr) return x.at(b, h, position);
    const int64_t page = p.cache.key.size(2);
    return x.at(table[b * p.cache.table.size(1) + position / page], h, position % page);
  }

 private:
  static const int32_t* data_of(const Tensor& x) {
    return x.defined() ? x.data<int32_t>() : nullptr;
  }
};

// A row of keys or values in the type of computation.
template <class T, class S>
const T* converted(const S* row, int64_t width, [[maybe_unused]] T* buffer) {
  if constexpr (std::is_same_v<T, S>) {
    return row;
  } else {
    for (int64_t d = 0; d < width; ++d) buffer[d] = convert<T>(row[d]);
    return buffer;
  }
}

template <class T>
T dot(const T* a, const T* b, int64_t n) {
  T total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t d = 0; d < n; ++d) total += a[d] * b[d];
  return total;
}

// One query row of a piece: its place, what it sees, and its running sums.
template <class T>
struct Row {
  const T* query;
  T* sum;  // Σ exp(score − top) value
  ScorePlace at;
  int64_t seen;  // keys before this position
  T top = -std::numeric_limits<T>::infinity();
  T total = 0;
  std::array<T, kTile> scores{};

  // Scores become weights, the sums are scaled to the new maximum.
  void advance(int count, int64_t width) {
    T best = top;
    for (int j = 0; j < count; ++j) best = std::max(best, scores[j]);
    if (best == -std::numeric_limits<T>::infinity()) {
      std::fill_n(scores.begin(), count, T{0});
      return;
    }
    if (best > top && total > 0) {
      const T shrink = math::exp(top - best);
      total *= shrink;
#pragma omp simd
      for (int64_t d = 0; d < width; ++d) sum[d] *= shrink;
    }
    top = best;
#pragma omp simd
    for (int j = 0; j < count; ++j) scores[j] = math::exp(scores[j] - best);
    for (int j = 0; j < count; ++j) total += scores[j];
  }
};

// T: of the computation, S: of what is stored.
template <class T, class S>
class Piece {
 public:
  Piece(const Problem& p, const Keys& keys, int64_t b, int64_t h, Rows<const T> query,
        Rows<const S> key, Rows<const S> value, T* sums)
      : p_(p), keys_(keys), b_(b), h_(h), key_(key), value_(value) {
    const int64_t n = p.query.size(2), group = p.query.size(1) / p.key_heads();
    const int64_t first = keys.length(b) - keys.tokens(b);
    for (int64_t r = 0; r < group * n; ++r) {
      const int64_t head = h * group + r / n, i = r % n;
      const int64_t last = p.options.causal ? first + i + 1 : keys.length(b);
      const ScorePlace at{static_cast<int>(b),         static_cast<int>(head),
                          static_cast<int>(i),         0,
                          static_cast<int>(first + i), 0};
      rows_.push_back(
          {query.at(b, head, i), sums + r * p.value_width(), at, i < keys.tokens(b) ? last : 0});
    }
    for (const Tensor& table : p.options.score.tables()) tables_.push_back(table.data<T>());
    buffer_.resize(static_cast<size_t>(std::max(p.width(), p.value_width())));
  }

  // Places [begin, end); leaves normalised outputs in `sums`.
  void run(int64_t begin, int64_t end, T* lse) {
    std::fill_n(rows_[0].sum, static_cast<int64_t>(rows_.size()) * p_.value_width(), T{0});
    for (int64_t slot = begin; slot < end; slot += kTile) {
      tile(slot, static_cast<int>(std::min<int64_t>(kTile, end - slot)));
    }
    for (size_t r = 0; r < rows_.size(); ++r) {
      Row<T>& row = rows_[r];
      lse[r] = row.total > 0 ? row.top + math::log(row.total) : -std::numeric_limits<T>::infinity();
      const T scale = row.total > 0 ? 1 / row.total : T{0};
      for (int64_t d = 0; d < p_.value_width(); ++d) row.sum[d] *= scale;
    }
    count_score_entries(entries_);
  }

 private:
  void tile(int64_t slot, int count) {
    for (int j = 0; j < count; ++j) {
      positions_[j] = static_cast<int32_t>(keys_.position(b_, h_, slot + j));
      multiply(j, positions_[j]);
    }
    for (Row<T>& row : rows_) {
      score(row, count);
      row.advance(count, p_.value_width());
    }
    for (int j = 0; j < count; ++j) {
      if (positions_[j] >= 0) add_value(j, positions_[j]);
    }
  }

  // The scaled products of key j, at `position`, with all rows.
  void multiply(int j, int64_t position) {
    if (position < 0) {
      for (Row<T>& row : rows_) row.scores[j] = 0;
      return;
    }
    const T* k = converted<T>(keys_.row(key_, b_, h_, position), p_.width(), buffer_.data());
    const T scale = static_cast<T>(p_.options.scale);
    for (Row<T>& row : rows_) {
      row.scores[j] = position < row.seen ? scale * dot(row.query, k, p_.width()) : T{0};
    }
  }

  void score(Row<T>& row, int count) {
    std::array<uint8_t, kTile> visible;
    for (int j = 0; j < count; ++j) {
      visible[j] = positions_[j] >= 0 && positions_[j] < row.seen;
      entries_ += visible[j];
    }
    if (!p_.options.score.is_identity()) {
      const ScoreKernels& kernels = p_.options.score.kernels();
      const ScoreRow entries{row.at, positions_.data(), positions_.data(), visible.data(), count};
      if constexpr (std::is_same_v<T, float>) {
        kernels.forward_f32(kernels.functor, entries, tables_.data(), row.scores.data());
      } else {
        kernels.forward_f64(kernels.functor, entries, tables_.data(), row.scores.data());
      }
    }
    for (int j = 0; j < count; ++j) {
      if (visible[j] == 0) row.scores[j] = -std::numeric_limits<T>::infinity();
    }
  }

  void add_value(int j, int64_t at) {
    const T* v = converted<T>(keys_.row(value_, b_, h_, at), p_.value_width(), buffer_.data());
    for (Row<T>& row : rows_) {
      const T w = row.scores[j];
      if (w == 0) continue;
      T* sum = row.sum;
#pragma omp simd
      for (int64_t d = 0; d < p_.value_width(); ++d) sum[d] += w * v[d];
    }
  }

  const Problem& p_;
  const Keys& keys_;
  int64_t b_, h_;
  Rows<const S> key_, value_;
  std::vector<Row<T>> rows_;
  std::vector<const T*> tables_;
  std::vector<T> buffer_;
  std::array<int32_t, kTile> positions_{};
  int64_t entries_ = 0;
};

// out = Σ exp(lse_p − lse) part_p over a row's pieces, in order.
template <class T>
void combine(const T* parts, const T* part_lse, int64_t pieces, int64_t step, int64_t width, T* out,
             T* lse) {
  constexpr T none = -std::numeric_limits<T>::infinity();
  T top = none, total = 0;
  for (int64_t p = 0; p < pieces; ++p) top = std::max(top, part_lse[p * step]);
  std::fill_n(out, width, T{0});
  for (int64_t p = 0; p < pieces && top > none; ++p) {
    const T w = math::exp(part_lse[p * step] - top);
    if (w == 0) continue;
    total += w;
    const T* part = parts + p * step * width;
#pragma omp simd
    for (int64_t d = 0; d < width; ++d) out[d] += w * part[d];
  }
  for (int64_t d = 0; d < width && total > 0; ++d) out[d] /= total;
  *lse = total > 0 ? top + math::log(total) : none;
}

template <class T, class S>
void run(const Problem& p, const Tensor& out, const Tensor& lse) {
  const Keys keys(p);
  const int64_t n = p.query.size(2), heads = p.query.size(1), key_heads = p.key_heads();
  const int64_t rows = heads / key_heads * n, width = p.value_width();
  const int64_t batch = p.query.size(0), groups = batch * key_heads;
  int most = 1;
  for (int64_t b = 0; b < batch; ++b) {
    most = std::max(most, decode::piece_count(keys.slots(b)));
  }
  if (rows == 0 || groups == 0) return;
  const Tensor parts = empty({groups, most, rows, width}, {out.dtype(), {}});
  const Tensor part_lse = empty({groups, most, rows}, {out.dtype(), {}});
  const Rows<const T> q(p.query);
  const Rows<const S> k(p.cache.key), v(p.cache.value);
  const int64_t work = groups * rows * (p.width() + width) * keys.slots(0);
  parallel_for(groups * most, work, [&](int64_t t) {
    const int64_t b = t / most / key_heads, h = t / most % key_heads, piece = t % most;
    const int slots = keys.slots(b), length = decode::piece_length(slots);
    if (piece * length >= slots && piece > 0) return;
    Piece<T, S>(p, keys, b, h, q, k, v, parts.data<T>() + t * rows * width)
        .run(piece * length, std::min<int64_t>(slots, (piece + 1) * length),
             part_lse.data<T>() + t * rows);
  });
  const Rows<T> o(out), l(lse);
  parallel_for(groups * rows, groups * rows * width * most, [&](int64_t t) {
    const int64_t b = t / rows / key_heads, r = t % rows, first = t / rows * most * rows + r;
    const int64_t h = t / rows % key_heads * (heads / key_heads) + r / n;
    combine(parts.data<T>() + first * width, part_lse.data<T>() + first,
            std::max(1, decode::piece_count(keys.slots(b))), rows, width, o.at(b, h, r % n),
            l.at(b, h, r % n));
  });
}

// Score entries as far as the host can tell: a length that only the device knows counts as all
// keys, a list with its full length.
[[maybe_unused]] void count_on_host(const Problem& p) {
  const int64_t n = p.query.size(2);
  int64_t entries = 0;
  for (int64_t b = 0; b < p.query.size(0); ++b) {
    const int64_t length = p.lengths.empty() ? p.keys : p.lengths[static_cast<size_t>(b)];
    for (int64_t i = 0; i < n; ++i) {
      const int64_t seen =
          p.options.causal ? std::clamp<int64_t>(length - n + i + 1, 0, length) : length;
      entries += p.options.selected.defined() ? std::min(seen, p.selected()) : seen;
    }
  }
  count_score_entries(entries * p.query.size(1));
}

// Through the dense engine, over a copy of the listed keys.
[[maybe_unused]] AttentionResult compute_by_dense(const Problem& p) {
  DecodeOptions o = p.options;
  o.lengths = p.cache.lengths;
  o.added = p.cache.added;
  const decode::Gathered g = decode::gather_keys(p.query, p.cache.key, p.cache.value, o);
  AttentionOptions options{.scale = o.scale, .score = o.score};
  options.query_positions = g.query_position.to(DType::i32);
  options.key_positions = g.key_position.to(DType::i32);
  if (!o.selected.defined()) {
    options.key_end = g.seen.to(DType::i32);
  } else {  // places in the list are no positions; padding has one that no window reaches
    options.key_end =
        (gt(g.seen, 0).to(DType::i64) * static_cast<double>(g.key.size(2))).to(DType::i32);
    options.right = o.causal ? 0 : p.query.size(2);
  }
  const DType dtype = p.query.dtype();
  return dense_attention(p.query, kernels::cast(g.key, dtype), kernels::cast(g.value, dtype),
                         options);
}

AttentionResult compute(Problem p) {
  if constexpr (kCuda) {
    if (p.query.device().is_cuda()) {
      if (!decode::has_kernels(p.options.score)) return compute_by_dense(p);
      count_on_host(p);
      return decode_cuda(p);
    }
  }
  TensorList tables;
  for (const Tensor& table : p.options.score.tables()) {
    tables.push_back(kernels::contiguous(kernels::cast(table.detach(), p.query.dtype())));
  }
  if (!tables.empty()) p.options.score = p.options.score.with(tables);
  p.query = engine::with_dense_rows(p.query);
  p.cache.key = engine::with_dense_rows(p.cache.key);
  p.cache.value = engine::with_dense_rows(p.cache.value);
  const Tensor& q = p.query;
  const Shape rows{q.size(0), q.size(1), q.size(2)};
  const AttentionResult r{
      engine::empty_heads({rows[0], rows[1], rows[2], p.value_width()}, q.dtype(), q.device()),
      empty(rows, {q.dtype(), q.device()})};
  visit_floating("decode_attention", q.dtype(), [&]<class T>() {
    switch (p.cache.key.dtype()) {
      case DType::bf16:
        return run<T, bfloat16>(p, r.output, r.logsumexp);
      case DType::f16:
        return run<T, float16>(p, r.output, r.logsumexp);
      case DType::f32:
        return run<T, float>(p, r.output, r.logsumexp);
      default:
        return run<T, double>(p, r.output, r.logsumexp);
    }
  });
  return r;
}

void check_numbers(const char* what, const Tensor& x, int64_t batch, const Tensor& query) {
  if (!x.defined()) return;
  check(x.dtype() == DType::i32 && x.shape() == Shape{batch} && x.device() == query.device() &&
            x.is_contiguous(),
        "decode_attention: {} must be a dense i32 ({}) on {}, got {} {} on {}", what, batch,
        query.device(), x.dtype(), x.shape(), x.device());
}

void check_problem(Problem& p) {
  const Tensor &q = p.query, &k = p.cache.key, &v = p.cache.value;
  const DecodeOptions& o = p.options;
  check(q.rank() == 4 && k.rank() == 4 && v.rank() == 4,
        "decode_attention: wants (B, H, N, D), got {}, {}, {}", q.shape(), k.shape(), v.shape());
  const bool paged = p.cache.table.defined();
  const int64_t batch = paged ? p.cache.table.size(0) : k.size(0);
  check(q.size(0) == batch && q.size(3) == k.size(3) && k.size(0) == v.size(0) &&
            k.size(1) == v.size(1) && k.size(2) == v.size(2),
        "decode_attention: query {}, key {} and value {} do not fit one another", q.shape(),
        k.shape(), v.shape());
  check(k.size(1) > 0 && q.size(1) % k.size(1) == 0,
        "decode_attention: {} query heads are not a multiple of {} key heads", q.size(1),
        k.size(1));
  check(is_floating(q.dtype()) && is_floating(k.dtype()) && k.dtype() == v.dtype(),
        "decode_attention: cannot attend in {} to keys in {} and values in {}", q.dtype(),
        k.dtype(), v.dtype());
  check(q.device() == k.device() && k.device() == v.device(),
        "decode_attention: devices differ: {}, {}, {}", q.device(), k.device(), v.device());
  check(p.capacity < INT32_MAX && q.size(1) * q.size(2) < INT32_MAX,
        "decode_attention: {} keys for {} queries are too many", p.capacity, q.size(2));
  check_numbers("lengths", p.cache.lengths, batch, q);
  check_numbers("added", p.cache.added, batch, q);
  const Tensor& s = o.selected;
  check(o.selected_size > 0, "decode_attention: a selected_size of {}", o.selected_size);
  if (s.defined()) {
    check(s.dtype() == DType::i32 && s.rank() == 3 && (s.size(0) == batch || s.size(0) == 1) &&
              (s.size(1) == k.size(1) || s.size(1) == 1) && s.device() == q.device(),
          "decode_attention: selected must be i32 ({}, {}, K) on {}, got {} {} on {}", batch,
          k.size(1), q.device(), s.dtype(), s.shape(), s.device());
    check(s.size(2) * o.selected_size < INT32_MAX,
          "decode_attention: {} selected keys are too many", s.size(2) * o.selected_size);
    p.options.selected = views::expand(s, {batch, k.size(1), s.size(2)});
  }
  engine::check_tables("decode_attention", o.score, q, p.keys);
  for (const Tensor& table : o.score.tables()) {
    check(table.device() == q.device(), "decode_attention: a table of {} lies on {}, queries on {}",
          o.score.name(), table.device(), q.device());
  }
  check(!grad_enabled() || !(q.requires_grad() || k.requires_grad() || v.requires_grad()),
        "decode_attention: it has no gradient; use dense_attention, or NoGrad");
}

AttentionResult attend(Problem p) {
  check_problem(p);
  if (p.options.scale == 0) p.options.scale = 1 / std::sqrt(static_cast<double>(p.width()));
  return compute(std::move(p));
}

}  // namespace

AttentionResult decode_attention(const Tensor& query, const Tensor& key, const Tensor& value,
                                 const DecodeOptions& options) {
  check(key.rank() == 4, "decode_attention: wants keys (B, H, N, D), got {}", key.shape());
  return attend({query,
                 {key, value, options.lengths, options.added, {}},
                 options,
                 key.size(2),
                 key.size(2),
                 {}});
}

AttentionResult decode_attention(const Tensor& query, const KvCache& cache,
                                 const DecodeOptions& options) {
  check(cache.view().key.defined(), "decode_attention: the cache is empty");
  check(!options.lengths.defined() && !options.added.defined(),
        "decode_attention: a cache has its own lengths");
  if (query.device().is_cuda() && !decode::has_kernels(options.score)) {
    DecodeOptions o = options;
    o.lengths = cache.view().lengths;
    o.added = cache.view().added;
    return decode_attention(query, cache.key(), cache.value(), o);
  }
  return attend({query, cache.view(), options, cache.length(), cache.capacity(), cache.lengths()});
}

}  // namespace tessera
