#include "tessera/attention/engines/tiles.h"

#include <cblas.h>

#include <cmath>
#include <limits>
#include <numeric>

#include "tessera/attention/engines/tiles_cuda.h"
#include "tessera/attention/engines/work.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/kernels/fill.h"
#include "tessera/core/math.h"
#include "tessera/core/parallel.h"
#include "tessera/core/view.h"

namespace tessera {
namespace {

constexpr int64_t kChunk = 256;            // keys at a time: 64 × 256 scores stay in the cache
constexpr int64_t kTasks = 8;              // into which few heads are cut in the backward
constexpr int64_t kTableBytes = 64 << 20;  // of copies of tables that add up gradients

// Row-major C = alpha op(A) op(B) + beta C on one thread; callers are inside a parallel region.
struct Matrix {
  const void* data;
  int64_t ld;
  bool transposed = false;
};

CBLAS_TRANSPOSE op_of(const Matrix& m) {
  return m.transposed ? CblasTrans : CblasNoTrans;
}

void product(int64_t m, int64_t n, int64_t k, double alpha, Matrix a, Matrix b, double beta,
             float* c, int64_t ldc) {
  cblas_sgemm(CblasRowMajor, op_of(a), op_of(b), static_cast<blasint>(m), static_cast<blasint>(n),
              static_cast<blasint>(k), static_cast<float>(alpha), static_cast<const float*>(a.data),
              static_cast<blasint>(a.ld), static_cast<const float*>(b.data),
              static_cast<blasint>(b.ld), static_cast<float>(beta), c, static_cast<blasint>(ldc));
}

void product(int64_t m, int64_t n, int64_t k, double alpha, Matrix a, Matrix b, double beta,
             double* c, int64_t ldc) {
  cblas_dgemm(CblasRowMajor, op_of(a), op_of(b), static_cast<blasint>(m), static_cast<blasint>(n),
              static_cast<blasint>(k), alpha, static_cast<const double*>(a.data),
              static_cast<blasint>(a.ld), static_cast<const double*>(b.data),
              static_cast<blasint>(b.ld), beta, c, static_cast<blasint>(ldc));
}

// One head of a (B, H, N, D) tensor: first element and distance between rows.
template <class T>
struct Head {
  T* data = nullptr;
  int64_t ld = 1;
  int64_t width = 0;
  T* row(int64_t i) const { return data + i * ld; }
};

template <class T>
Head<T> head_of(const Tensor& x, int64_t b, int64_t h) {
  const int64_t ld =
      std::max<int64_t>(x.size(2) > 1 ? x.stride(2) : 1, std::max<int64_t>(1, x.size(3)));
  return {x.data<T>() + b * x.stride(0) + h * x.stride(1), ld, x.size(3)};
}

bool is_run(std::span<const int32_t> ids) {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] != ids[0] + static_cast<int32_t>(i)) return false;
  }
  return ids.empty() || ids[0] >= 0;
}

// Some rows of a head as a matrix: in place if they follow one another, else copied to `room`, with
// zeros for nobody.
template <class T>
Matrix rows_of(const Head<T>& x, std::span<const int32_t> ids, std::vector<T>& room) {
  if (is_run(ids)) return {x.row(ids.empty() ? 0 : ids[0]), x.ld};
  room.resize(ids.size() * static_cast<size_t>(x.width));
  T* to = room.data();
  for (const int32_t id : ids) {
    if (id < 0) {
      std::fill(to, to + x.width, T{0});
    } else {
      std::copy_n(x.row(id), x.width, to);
    }
    to += x.width;
  }
  return {room.data(), std::max<int64_t>(1, x.width)};
}

// rows ids of x += Aᵀ · B, A (k, ids), B (k, width).
template <class T>
void add_product(const Head<T>& x, std::span<const int32_t> ids, int64_t k, double alpha, Matrix a,
                 Matrix b, std::vector<T>& room) {
  const auto n = static_cast<int64_t>(ids.size());
  a.transposed = true;
  if (is_run(ids)) {
    product(n, x.width, k, alpha, a, b, 1, x.row(ids.empty() ? 0 : ids[0]), x.ld);
    return;
  }
  room.resize(ids.size() * static_cast<size_t>(x.width));
  product(n, x.width, k, alpha, a, b, 0, room.data(), std::max<int64_t>(1, x.width));
  const T* from = room.data();
  for (const int32_t id : ids) {
    if (id >= 0) {
      T* to = x.row(id);
#pragma omp simd
      for (int64_t d = 0; d < x.width; ++d) to[d] += from[d];
    }
    from += x.width;
  }
}

template <class T>
T row_max(const T* x, int64_t n, T start) {
  T best = start;
#pragma omp simd reduction(max : best)
  for (int64_t j = 0; j < n; ++j) best = x[j] > best ? x[j] : best;
  return best;
}

template <class T>
T row_sum(const T* x, int64_t n) {
  T total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t j = 0; j < n; ++j) total += x[j];
  return total;
}

template <class T>
T dot(const T* x, const T* y, int64_t n) {
  T total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t d = 0; d < n; ++d) total += x[d] * y[d];
  return total;
}

template <class T>
void exponentials(T* scores, int64_t count, T shift) {
#pragma omp simd
  for (int64_t j = 0; j < count; ++j) scores[j] = math::exp(scores[j] - shift);
}

template <class T>
constexpr T kNone = -std::numeric_limits<T>::infinity();

// The part of a row that counts: entries [begin, end), less those that `hidden` marks.
struct Span {
  int64_t begin = 0, end = 0;
  const uint8_t* visible = nullptr;  // of the whole row; null: all of the span
};

// A chunk of a tile's keys before one query after another.
class Chunk {
 public:
  Chunk(const EntryRule& rule, int b, int h) : rule_(rule), b_(b), h_(h) {}

  // `keys` are some of the tile's.
  void set(const Tile& tile, std::span<const int32_t> keys, bool wants_positions) {
    tile_ = &tile;
    first_ = keys.data() - tile.keys.data();
    keys_ = keys;
    run_ = is_run(keys);
    complete_ = run_ || std::none_of(keys.begin(), keys.end(), [](int32_t k) { return k < 0; });
    positions_ = keys.data();
    if (!wants_positions || !rule_.key_position.is_set()) return;
    position_room_.resize(keys.size());
    for (size_t j = 0; j < keys.size(); ++j) {
      position_room_[j] = keys[j] < 0 ? 0 : rule_.position_of_key(b_, h_, keys[j]);
    }
    positions_ = position_room_.data();
  }

  // Of the tile's n-th query, which is i.
  Span span_of(int64_t n, int i) {
    const Span s = span_by_rule(i);
    return tile_->has_runs() ? within(s, tile_->runs_of(n)) : s;
  }

  ScoreRow row(int i, const Span& s) const {
    ScorePlace at{b_, h_, i, 0, rule_.position_of_query(b_, h_, i), 0};
    return {at, keys_.data() + s.begin, positions_ + s.begin,
            s.visible == nullptr ? nullptr : s.visible + s.begin, s.end - s.begin};
  }

 private:
  Span span_by_rule(int i) {
    const auto n = static_cast<int64_t>(keys_.size());
    const IndexRange r = rule_.keys_of(b_, h_, i);
    if (rule_.is_range() && run_) {
      const int64_t begin = std::clamp<int64_t>(int64_t{r.begin} - keys_[0], 0, n);
      return {begin, std::clamp<int64_t>(int64_t{r.end} - keys_[0], begin, n)};
    }
    if (rule_.is_range() && complete_ && r.begin <= 0 && r.end >= rule_.keys) return {0, n};
    visible_.resize(keys_.size());
    for (size_t j = 0; j < keys_.size(); ++j) {
      visible_[j] = keys_[j] >= 0 && rule_.visible(b_, h_, i, keys_[j]) ? 1 : 0;
    }
    return {0, n, visible_.data()};
  }

  // What of a span lies in the runs.
  Span within(const Span& s, std::span<const IndexRange> runs) {
    Span all{s.end, s.begin, s.visible};
    int64_t count = 0;
    auto clip = [&](const IndexRange& r) {
      const int64_t begin = std::max(r.begin - first_, s.begin);
      return std::pair{begin, std::max(begin, std::min(r.end - first_, s.end))};
    };
    for (const IndexRange& r : runs) {
      const auto [begin, end] = clip(r);
      if (begin == end) continue;
      all.begin = std::min(all.begin, begin);
      all.end = std::max(all.end, end);
      ++count;
    }
    if (count == 0) return {s.begin, s.begin};
    if (count == 1) return all;
    marks_.assign(keys_.size(), 0);
    for (const IndexRange& r : runs) {
      const auto [begin, end] = clip(r);
      for (int64_t j = begin; j < end; ++j) {
        marks_[static_cast<size_t>(j)] = s.visible == nullptr ? 1 : s.visible[j];
      }
    }
    all.visible = marks_.data();
    return all;
  }

  const EntryRule& rule_;
  int b_, h_;
  const Tile* tile_ = nullptr;
  int64_t first_ = 0;  // place in the tile's keys
  std::span<const int32_t> keys_;
  const int32_t* positions_ = nullptr;
  bool run_ = false, complete_ = false;
  std::vector<int32_t> position_room_;
  std::vector<uint8_t> visible_, marks_;
};

// The score functor bound to a type.
template <class T>
class BoundScore {
 public:
  explicit BoundScore(const Score& score) {
    if (score.is_identity()) return;
    kernels_ = &score.kernels();
    for (size_t k = 0; k < score.tables().size(); ++k) {
      tables_[k] = score.tables()[k].template data<T>();
    }
  }
  bool is_identity() const { return kernels_ == nullptr; }
  void forward(const ScoreRow& row, T* scores) const {
    if constexpr (std::is_same_v<T, float>) {
      kernels_->forward_f32(kernels_->functor, row, tables_, scores);
    } else {
      kernels_->forward_f64(kernels_->functor, row, tables_, scores);
    }
  }
  void backward(const ScoreRow& row, const T* scores, T* gradients,
                T* const* table_gradients) const {
    if constexpr (std::is_same_v<T, float>) {
      kernels_->backward_f32(kernels_->functor, row, tables_, scores, gradients, table_gradients);
    } else {
      kernels_->backward_f64(kernels_->functor, row, tables_, scores, gradients, table_gradients);
    }
  }

 private:
  const ScoreKernels* kernels_ = nullptr;
  const T* tables_[kMaxTables] = {};
};

// Hides what does not count, in [0, n) of a row: to −inf before the softmax.
template <class T>
void hide(const Span& s, T* row) {
  if (s.visible == nullptr) return;
  for (int64_t j = s.begin; j < s.end; ++j) row[j] = s.visible[j] != 0 ? row[j] : kNone<T>;
}

int64_t count_of(const Span& s) {
  if (s.visible == nullptr) return s.end - s.begin;
  return std::accumulate(s.visible + s.begin, s.visible + s.end, int64_t{0});
}

// For the scores of `rows` queries.
template <class T>
void make_room(std::vector<T>& scores, int64_t rows) {
  const auto wanted = static_cast<size_t>(rows * kChunk);
  if (scores.size() < wanted) scores.resize(wanted);
}

template <class T>
class ForwardHead {
 public:
  ForwardHead(const TiledAttention& a, const AttentionResult& result, int64_t b, int64_t h)
      : a_(a),
        score_(a.score),
        chunk_(a.rule, static_cast<int>(b), static_cast<int>(h)),
        lse_(result.logsumexp.data<T>() + (b * a.query.size(1) + h) * a.rows()) {
    const int64_t kh = h / (a.query.size(1) / a.key.size(1));
    q_ = head_of<T>(a.query, b, h);
    k_ = head_of<T>(a.key, b, kh);
    v_ = head_of<T>(a.value, b, kh);
    out_ = head_of<T>(result.output, b, h);
  }

  // Returns the entries that counted.
  int64_t run(const Tile& tile) {
    const auto rows = static_cast<int64_t>(tile.queries.size());
    const auto keys = static_cast<int64_t>(tile.keys.size());
    make_room(scores_, rows);
    sums_.assign(static_cast<size_t>(rows * v_.width), T{0});
    std::fill(top_, top_ + rows, kNone<T>);
    std::fill(total_, total_ + rows, T{0});
    const Matrix q = rows_of(q_, tile.queries, q_room_);
    int64_t entries = 0;
    for (int64_t j = 0; j < keys; j += kChunk) {
      const auto ids = std::span(tile.keys).subspan(
          static_cast<size_t>(j), static_cast<size_t>(std::min(kChunk, keys - j)));
      entries += add_chunk(tile, q, ids);
    }
    for (int64_t i = 0; i < rows; ++i) finish(tile.results()[static_cast<size_t>(i)], i);
    return entries;
  }

 private:
  int64_t add_chunk(const Tile& tile, const Matrix& q, std::span<const int32_t> ids) {
    const auto rows = static_cast<int64_t>(tile.queries.size());
    const auto n = static_cast<int64_t>(ids.size());
    Matrix k = rows_of(k_, ids, k_room_);
    k.transposed = true;
    product(rows, n, q_.width, a_.scale, q, k, 0, scores_.data(), kChunk);
    chunk_.set(tile, ids, !score_.is_identity());
    int64_t entries = 0;
    for (int64_t i = 0; i < rows; ++i) {
      const int32_t query = tile.queries[static_cast<size_t>(i)];
      const Span s = chunk_.span_of(i, query);
      T* row = scores_.data() + i * kChunk;
      if (!score_.is_identity()) score_.forward(chunk_.row(query, s), row + s.begin);
      hide(s, row);
      soften(s, n, i);
      entries += count_of(s);
    }
    product(rows, v_.width, n, 1, {scores_.data(), kChunk}, rows_of(v_, ids, k_room_), 1,
            sums_.data(), std::max<int64_t>(1, v_.width));
    return entries;
  }

  // Makes weights of a row of scores; earlier sums shrink to the new maximum.
  void soften(const Span& s, int64_t n, int64_t i) {
    T* row = scores_.data() + i * kChunk;
    std::fill(row, row + s.begin, T{0});
    std::fill(row + s.end, row + n, T{0});
    const int64_t count = s.end - s.begin;
    const T best = row_max(row + s.begin, count, top_[i]);
    if (best == kNone<T>) {
      std::fill(row + s.begin, row + s.end, T{0});
      return;
    }
    if (best > top_[i] && total_[i] > 0) {
      const T shrink = math::exp(top_[i] - best);
      total_[i] *= shrink;
      T* sums = sums_.data() + i * v_.width;
      for (int64_t d = 0; d < v_.width; ++d) sums[d] *= shrink;
    }
    top_[i] = best;
    exponentials(row + s.begin, count, best);
    total_[i] += row_sum(row + s.begin, count);
  }

  void finish(int32_t result, int64_t i) {
    lse_[result] = total_[i] == 0 ? kNone<T> : top_[i] + math::log(total_[i]);
    const T scale = total_[i] == 0 ? T{0} : 1 / total_[i];
    const T* sums = sums_.data() + i * v_.width;
    T* o = out_.row(result);
    for (int64_t d = 0; d < v_.width; ++d) o[d] = sums[d] * scale;
  }

  const TiledAttention& a_;
  BoundScore<T> score_;
  Chunk chunk_;
  Head<T> q_, k_, v_, out_;
  T* lse_;
  T top_[kTileQueries];
  T total_[kTileQueries];
  std::vector<T> scores_, sums_, q_room_, k_room_;
};

// What a task of the backward adds to: sums over queries of its own.
template <class T>
struct Targets {
  Head<T> key, value;
  T* tables[kMaxTables] = {};
};

// P from the logsumexp, then dV += Pᵀ dO, dS = P (dO Vᵀ − δ) through the score functor, dQ += scale
// dS K, dK += scale dSᵀ Q, with δ_i = ⟨dO_i, O_i⟩ − dL_i.
template <class T>
class BackwardHead {
 public:
  BackwardHead(const TiledAttention& a, const AttentionResult& result, const Tensor& grad_out,
               const Tensor& grad_lse, const Tensor& grad_query, int64_t b, int64_t h)
      : a_(a), score_(a.score), chunk_(a.rule, static_cast<int>(b), static_cast<int>(h)) {
    const int64_t kh = h / (a.query.size(1) / a.key.size(1));
    const int64_t at = (b * a.query.size(1) + h) * a.rows();
    q_ = head_of<T>(a.query, b, h);
    k_ = head_of<T>(a.key, b, kh);
    v_ = head_of<T>(a.value, b, kh);
    out_ = head_of<T>(result.output, b, h);
    grad_out_ = head_of<T>(grad_out, b, h);
    grad_q_ = head_of<T>(grad_query, b, h);
    lse_ = result.logsumexp.data<T>() + at;
    grad_lse_ = grad_lse.defined() ? grad_lse.data<T>() + at : nullptr;
  }

  void run(const Tile& tile, const Targets<T>& to) {
    const auto rows = static_cast<int64_t>(tile.queries.size());
    const auto keys = static_cast<int64_t>(tile.keys.size());
    make_room(p_, rows);
    make_room(ds_, rows);
    for (int64_t i = 0; i < rows; ++i) {
      const int32_t result = tile.results()[static_cast<size_t>(i)];
      delta_[i] = dot(out_.row(result), grad_out_.row(result), v_.width) -
                  (grad_lse_ != nullptr ? grad_lse_[result] : T{0});
    }
    const Matrix q = rows_of(q_, tile.queries, q_room_);
    const Matrix o = rows_of(grad_out_, tile.results(), o_room_);
    sums_.assign(static_cast<size_t>(rows * q_.width), T{0});
    for (int64_t j = 0; j < keys; j += kChunk) {
      const auto ids = std::span(tile.keys).subspan(
          static_cast<size_t>(j), static_cast<size_t>(std::min(kChunk, keys - j)));
      add_chunk(tile, q, o, ids, to);
    }
    for (int64_t i = 0; i < rows; ++i) {
      std::copy_n(sums_.data() + i * q_.width, q_.width,
                  grad_q_.row(tile.results()[static_cast<size_t>(i)]));
    }
  }

 private:
  void add_chunk(const Tile& tile, const Matrix& q, const Matrix& o, std::span<const int32_t> ids,
                 const Targets<T>& to) {
    const auto rows = static_cast<int64_t>(tile.queries.size());
    const auto n = static_cast<int64_t>(ids.size());
    const Matrix k = rows_of(k_, ids, k_room_);
    Matrix v = rows_of(v_, ids, v_room_);
    v.transposed = true;
    product(rows, n, q_.width, a_.scale, q, {k.data, k.ld, true}, 0, p_.data(), kChunk);
    product(rows, n, v_.width, 1, o, v, 0, ds_.data(), kChunk);
    chunk_.set(tile, ids, !score_.is_identity());
    for (int64_t i = 0; i < rows; ++i) score_gradients(tile, i, n, to);
    const Matrix p{p_.data(), kChunk}, ds{ds_.data(), kChunk};
    add_product(to.value, ids, rows, 1, p, o, room_);
    add_product(to.key, ids, rows, a_.scale, ds, q, room_);
    product(rows, q_.width, n, a_.scale, ds, k, 1, sums_.data(), std::max<int64_t>(1, q_.width));
  }

  void score_gradients(const Tile& tile, int64_t i, int64_t n, const Targets<T>& to) {
    const int32_t query = tile.queries[static_cast<size_t>(i)];
    const T lse = lse_[tile.results()[static_cast<size_t>(i)]];
    Span s = chunk_.span_of(i, query);
    if (lse == kNone<T>) s = {0, 0};
    T* p = p_.data() + i * kChunk;
    T* ds = ds_.data() + i * kChunk;
    const int64_t count = s.end - s.begin;
    if (!score_.is_identity()) {
      scaled_.assign(p + s.begin, p + s.end);
      score_.forward(chunk_.row(query, s), p + s.begin);
    }
    hide(s, p);
    exponentials(p + s.begin, count, lse);
    const T delta = delta_[i];
#pragma omp simd
    for (int64_t j = s.begin; j < s.end; ++j) ds[j] = p[j] * (ds[j] - delta);
    if (!score_.is_identity()) {
      score_.backward(chunk_.row(query, s), scaled_.data(), ds + s.begin, to.tables);
    }
    for (T* x : {p, ds}) {
      std::fill(x, x + s.begin, T{0});
      std::fill(x + s.end, x + n, T{0});
    }
  }

  const TiledAttention& a_;
  BoundScore<T> score_;
  Chunk chunk_;
  Head<T> q_, k_, v_, out_, grad_out_, grad_q_;
  const T* lse_;
  const T* grad_lse_;
  T delta_[kTileQueries];
  std::vector<T> p_, ds_, scaled_, sums_, q_room_, o_room_, k_room_, v_room_, room_;
};

Tensor zero_heads(const Shape& shape, const Tensor& like) {
  const Tensor x = engine::empty_heads(shape, like.dtype(), like.device());
  kernels::fill(x, 0);
  return x;
}

TiledAttention prepared(TiledAttention a) {
  a.query = engine::with_dense_rows(a.query);
  a.key = engine::with_dense_rows(a.key);
  a.value = engine::with_dense_rows(a.value);
  TensorList tables;
  for (const Tensor& x : a.score.tables()) tables.push_back(kernels::contiguous(x));
  a.score = a.score.with(tables);
  return a;
}

int64_t work_of(const TiledAttention& a) {
  return a.query.size(0) * a.query.size(1) * a.rows() * a.query.size(3) * 64;
}

// How the backward is cut: tasks add up keys and values of their own, parts tables of their own.
// All depend on the sizes alone.
struct Cut {
  int64_t segments = 1;  // of a key head's tiles
  int64_t tasks = 0;     // batch · key heads · segments
  int64_t parts = 1;     // tasks are dealt to them in runs
};

Cut cut_of(const TiledAttention& a) {
  const int64_t heads = a.key.size(0) * a.key.size(1);
  Cut c;
  c.segments =
      std::clamp<int64_t>(heads == 0 ? 1 : kTasks / heads, 1, std::max<int64_t>(1, a.tiling.count));
  c.tasks = heads * c.segments;
  int64_t bytes = 1;
  for (const Tensor& t : a.score.tables()) bytes += t.numel() * size_of(t.dtype());
  c.parts = a.score.tables().empty()
                ? c.tasks
                : std::clamp<int64_t>(kTableBytes / bytes, 1, std::min(kTasks, c.tasks));
  return c;
}

// sum[s, …] over s in order, into sum[0].
template <class T>
void add_segments(T* x, int64_t segments, int64_t size) {
  if (segments == 1) return;
  parallel_ranges(size, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t s = 1; s < segments; ++s) {
      const T* from = x + s * size;
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) x[i] += from[i];
    }
  });
}

template <class T>
void backward(const TiledAttention& a, const AttentionResult& forward, const Tensor& grad_out,
              const Tensor& grad_lse, const Cut& cut, const Tensor& grad_q, const Tensor& grad_k,
              const Tensor& grad_v, const TensorList& tables) {
  const int64_t key_heads = a.key.size(1), group = a.query.size(1) / key_heads;
  auto task = [&](int64_t t, int64_t part) {
    const int64_t segment = t % cut.segments, kh = t / cut.segments % key_heads;
    const int64_t b = t / cut.segments / key_heads;
    Targets<T> to{head_of<T>(views::select(grad_k, 0, segment), b, kh),
                  head_of<T>(views::select(grad_v, 0, segment), b, kh)};
    for (size_t k = 0; k < tables.size(); ++k) {
      to.tables[k] = tables[k].data<T>() + part * tables[k].stride(0);
    }
    const int64_t first = a.tiling.count * segment / cut.segments;
    const int64_t last = a.tiling.count * (segment + 1) / cut.segments;
    Tile tile;
    for (int64_t h = kh * group; h < (kh + 1) * group; ++h) {
      BackwardHead<T> head(a, forward, grad_out, grad_lse, grad_q, b, h);
      for (int64_t i = first; i < last; ++i) {
        a.tiling.fill(b, h, i, tile);
        head.run(tile, to);
      }
    }
  };
  parallel_for(cut.parts, work_of(a), [&](int64_t part) {
    const int64_t last = cut.tasks * (part + 1) / cut.parts;
    for (int64_t t = cut.tasks * part / cut.parts; t < last; ++t) task(t, part);
  });
  add_segments(grad_k.data<T>(), cut.segments, grad_k.numel() / cut.segments);
  add_segments(grad_v.data<T>(), cut.segments, grad_v.numel() / cut.segments);
  for (const Tensor& x : tables) add_segments(x.data<T>(), cut.parts, x.stride(0));
}

}  // namespace

Tiling dense_tiling(const EntryRule& rule) {
  const int64_t n = rule.queries;
  auto fill = [rule](int64_t b, int64_t h, int64_t t, Tile& tile) {
    const auto begin = static_cast<int>(t * kTileQueries);
    const int end = std::min(rule.queries, begin + static_cast<int>(kTileQueries));
    tile.queries.resize(static_cast<size_t>(end - begin));
    std::iota(tile.queries.begin(), tile.queries.end(), begin);
    const IndexRange keys = rule.keys_of(static_cast<int>(b), static_cast<int>(h), begin, end);
    tile.keys.resize(static_cast<size_t>(std::max(0, keys.end - keys.begin)));
    std::iota(tile.keys.begin(), tile.keys.end(), keys.begin);
  };
  return {(n + kTileQueries - 1) / kTileQueries, fill};
}

AttentionResult attend_tiles(const TiledAttention& given) {
  if constexpr (kCuda) {
    if (given.query.device().is_cuda()) return attend_tiles_cuda(given);
  }
  const TiledAttention a = prepared(given);
  const int64_t batch = a.query.size(0), heads = a.query.size(1), n = a.rows();
  AttentionResult r{engine::empty_heads({batch, heads, n, a.value.size(3)}, a.query.dtype(), {}),
                    empty({batch, heads, n}, {a.query.dtype(), {}})};
  kernels::fill(r.output, 0);
  kernels::fill(r.logsumexp, -INFINITY);
  std::atomic<int64_t> entries{0};
  visit_floating("attention", a.query.dtype(), [&]<class T>() {
    // A run of tiles per task, so that its buffers are made once.
    const int64_t run = std::max<int64_t>(1, 256 / std::max<int64_t>(1, kTileQueries));
    const int64_t runs = (a.tiling.count + run - 1) / run;
    parallel_for(batch * heads * runs, work_of(a), [&](int64_t t) {
      const int64_t b = t / runs / heads, h = t / runs % heads, first = t % runs * run;
      ForwardHead<T> head(a, r, b, h);
      Tile tile;
      int64_t counted = 0;
      for (int64_t i = first; i < std::min(a.tiling.count, first + run); ++i) {
        a.tiling.fill(b, h, i, tile);
        counted += head.run(tile);
      }
      entries += counted;
    });
  });
  count_score_entries(entries);
  engine::count_multiply_adds(entries, a.query.size(3), a.value.size(3));
  return r;
}

AttentionGradients attend_tiles_backward(const TiledAttention& given,
                                         const AttentionResult& forward, const Tensor& grad_output,
                                         const Tensor& grad_logsumexp, bool wants_tables) {
  if constexpr (kCuda) {
    if (given.query.device().is_cuda()) {
      return attend_tiles_backward_cuda(given, forward, grad_output, grad_logsumexp, wants_tables);
    }
  }
  const TiledAttention a = prepared(given);
  const Cut cut = cut_of(a);
  const Tensor grad_out = engine::with_dense_rows(grad_output);
  const Tensor grad_lse = grad_logsumexp.defined() ? kernels::contiguous(grad_logsumexp) : Tensor();
  const Shape& query = a.query.shape();
  const Tensor grad_q = zero_heads({query[0], query[1], a.rows(), query[3]}, a.query);
  auto sums_like = [&](const Tensor& x) {
    const Tensor all =
        zeros({cut.segments, x.size(0), x.size(2), x.size(1), x.size(3)}, {x.dtype(), x.device()});
    return views::transpose(all, 2, 3);
  };
  const Tensor grad_k = sums_like(a.key), grad_v = sums_like(a.value);
  TensorList tables;
  for (const Tensor& x : wants_tables ? a.score.tables() : TensorList{}) {
    tables.push_back(zeros({cut.parts, x.numel()}, {x.dtype(), x.device()}));
  }
  visit_floating("attention", a.query.dtype(), [&]<class T>() {
    backward<T>(a, forward, grad_out, grad_lse, cut, grad_q, grad_k, grad_v, tables);
  });
  AttentionGradients g{grad_q, views::select(grad_k, 0, 0), views::select(grad_v, 0, 0), {}};
  for (size_t k = 0; k < tables.size(); ++k) {
    g.tables.push_back(views::reshape(views::select(tables[k], 0, 0), a.score.tables()[k].shape()));
  }
  return g;
}

}  // namespace tessera
