#include "tessera/attention/engines/dense.h"

#include <cblas.h>

#include <cmath>
#include <limits>

#include "tessera/attention/engines/dense_cuda.h"
#include "tessera/autograd/op.h"
#include "tessera/autograd/registry.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/kernels/fill.h"
#include "tessera/core/math.h"
#include "tessera/core/parallel.h"
#include "tessera/core/view.h"

namespace tessera {
namespace {

constexpr int64_t kRows = 64;   // queries per tile
constexpr int64_t kKeys = 256;  // keys per tile: 64 × 256 scores stay in the cache

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

struct Sizes {
  int64_t batch, heads, key_heads, queries, keys, width, value_width;
  bool causal;
  double scale;
  // Keys visible to query i: the first visible(i) ones.
  int64_t visible(int64_t i) const {
    return causal ? std::clamp<int64_t>(i + 1 + keys - queries, 0, keys) : keys;
  }
};

// One head of a (B, H, N, D) tensor: first element and distance between rows.
template <class T>
struct Head {
  T* data;
  int64_t ld;
  T* row(int64_t i) const { return data + i * ld; }
  Matrix from(int64_t i, bool transposed = false) const { return {row(i), ld, transposed}; }
};

template <class T>
Head<T> head(const Tensor& x, int64_t b, int64_t h) {
  const int64_t ld =
      std::max<int64_t>(x.size(2) > 1 ? x.stride(2) : 1, std::max<int64_t>(1, x.size(3)));
  return {x.data<T>() + b * x.stride(0) + h * x.stride(1), ld};
}

template <class T>
void exponentials(T* scores, int64_t count, T shift) {
#pragma omp simd
  for (int64_t j = 0; j < count; ++j) scores[j] = math::exp(scores[j] - shift);
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

// Rows [begin, begin + rows) of one head.
template <class T>
void forward_rows(const Sizes& s, Head<T> q, Head<T> k, Head<T> v, Head<T> out, T* lse,
                  int64_t begin, int64_t rows, T* scores) {
  constexpr T none = -std::numeric_limits<T>::infinity();
  T maximum[kRows];
  T total[kRows];
  std::fill(maximum, maximum + rows, none);
  std::fill(total, total + rows, T{0});
  for (int64_t i = 0; i < rows; ++i) {
    std::fill(out.row(begin + i), out.row(begin + i) + s.value_width, T{0});
  }
  const int64_t last = s.visible(begin + rows - 1);
  for (int64_t j = 0; j < last; j += kKeys) {
    const int64_t keys = std::min(kKeys, last - j);
    product(rows, keys, s.width, s.scale, q.from(begin), k.from(j, true), 0, scores, kKeys);
    for (int64_t i = 0; i < rows; ++i) {
      T* row = scores + i * kKeys;
      const int64_t seen = std::clamp<int64_t>(s.visible(begin + i) - j, 0, keys);
      std::fill(row + seen, row + keys, T{0});
      if (seen == 0) continue;
      const T best = row_max(row, seen, maximum[i]);
      if (best > maximum[i] && total[i] > 0) {
        const T shrink = math::exp(maximum[i] - best);
        total[i] *= shrink;
        T* o = out.row(begin + i);
        for (int64_t d = 0; d < s.value_width; ++d) o[d] *= shrink;
      }
      maximum[i] = best;
      exponentials(row, seen, best);
      total[i] += row_sum(row, seen);
    }
    product(rows, s.value_width, keys, 1, {scores, kKeys}, v.from(j), 1, out.row(begin), out.ld);
  }
  for (int64_t i = 0; i < rows; ++i) {
    lse[begin + i] = total[i] > 0 ? maximum[i] + math::log(total[i]) : none;
    const T scale = total[i] > 0 ? 1 / total[i] : T{0};
    T* o = out.row(begin + i);
    for (int64_t d = 0; d < s.value_width; ++d) o[d] *= scale;
  }
}

// Gradients of one query head; adds to those of its key head.
template <class T>
struct BackwardHead {
  Head<T> q, k, v, out, grad_out, grad_q, grad_k, grad_v;
  const T* lse;
  const T* grad_lse;

  // P from the logsumexp, then dV += Pᵀ dO, dS = P (dO Vᵀ − δ), dQ += scale dS K, dK += scale dSᵀ
  // Q, with δ_i = ⟨dO_i, O_i⟩ − dlse_i.
  void run(const Sizes& s, T* p, T* ds) const {
    for (int64_t i = 0; i < s.queries; i += kRows)
      rows(s, i, std::min(kRows, s.queries - i), p, ds);
  }

 private:
  void rows(const Sizes& s, int64_t begin, int64_t count, T* p, T* ds) const {
    T delta[kRows];
    for (int64_t i = 0; i < count; ++i) {
      const T* o = out.row(begin + i);
      const T* g = grad_out.row(begin + i);
      T dot = 0;
#pragma omp simd reduction(+ : dot)
      for (int64_t d = 0; d < s.value_width; ++d) dot += o[d] * g[d];
      delta[i] = dot - (grad_lse != nullptr ? grad_lse[begin + i] : T{0});
    }
    const int64_t last = s.visible(begin + count - 1);
    for (int64_t j = 0; j < last; j += kKeys) {
      const int64_t keys = std::min(kKeys, last - j);
      product(count, keys, s.width, s.scale, q.from(begin), k.from(j, true), 0, p, kKeys);
      product(count, keys, s.value_width, 1, grad_out.from(begin), v.from(j, true), 0, ds, kKeys);
      for (int64_t i = 0; i < count; ++i) {
        const int64_t seen = std::clamp<int64_t>(s.visible(begin + i) - j, 0, keys);
        score_gradients(p + i * kKeys, ds + i * kKeys, seen, keys, lse[begin + i], delta[i]);
      }
      product(keys, s.value_width, count, 1, {p, kKeys, true}, grad_out.from(begin), 1,
              grad_v.row(j), grad_v.ld);
      product(count, s.width, keys, s.scale, {ds, kKeys}, k.from(j), 1, grad_q.row(begin),
              grad_q.ld);
      product(keys, s.width, count, s.scale, {ds, kKeys, true}, q.from(begin), 1, grad_k.row(j),
              grad_k.ld);
    }
  }

  static void score_gradients(T* p, T* ds, int64_t seen, int64_t keys, T lse, T delta) {
    if (seen > 0) exponentials(p, seen, lse);
#pragma omp simd
    for (int64_t j = 0; j < seen; ++j) ds[j] = p[j] * (ds[j] - delta);
    std::fill(p + seen, p + keys, T{0});
    std::fill(ds + seen, ds + keys, T{0});
  }
};

// A tensor seen as (B, H, N, D) that lies in memory as (B, N, H, D), so that merging heads is free.
Tensor empty_heads(const Shape& shape, const Tensor& like) {
  const Tensor x = empty({shape[0], shape[2], shape[1], shape[3]}, {like.dtype(), like.device()});
  return views::transpose(x, 1, 2);
}

Tensor zero_heads(const Tensor& like) {
  const Tensor x = empty_heads(like.shape(), like);
  kernels::fill(x, 0);
  return x;
}

Tensor with_dense_rows(const Tensor& x) {
  return x.size(-1) <= 1 || x.stride(-1) == 1 ? x : kernels::contiguous(x);
}

struct DenseAttention {
  static constexpr std::string_view name = "dense_attention";
  DenseOptions options;

  Sizes sizes(const Tensor& q, const Tensor& k, const Tensor& v) const {
    return {q.size(0), q.size(1), k.size(1),      q.size(2),    k.size(2),
            q.size(3), v.size(3), options.causal, options.scale};
  }

  TensorList forward(Forward& f, const Tensor& query, const Tensor& key,
                     const Tensor& value) const {
    const AttentionResult r = compute(query, key, value);
    count(sizes(query, key, value));
    f.save_output(r.output, 0);
    f.save_output(r.logsumexp, 1);
    return {r.output, r.logsumexp};
  }

  TensorList definition(const TensorList& in) const {
    const AttentionResult r = dense_attention_reference(in[0], in[1], in[2], options);
    return {r.output, r.logsumexp};
  }

  void backward(Backward& b) const {
    const Tensor grad_lse = b.has_grad(1) ? kernels::contiguous(b.grad(1)) : Tensor();
    if constexpr (kCuda) {
      if (b.input(0).device().is_cuda()) {
        const DenseGradients g =
            dense_backward_cuda(b.input(0), b.input(1), b.input(2), {b.saved(0), b.saved(1)},
                                b.grad(0), grad_lse, options);
        b.add(0, g.query);
        b.add(1, g.key);
        b.add(2, g.value);
        return;
      }
    }
    const Tensor q = with_dense_rows(b.input(0));
    const Tensor k = with_dense_rows(b.input(1));
    const Tensor v = with_dense_rows(b.input(2));
    const Sizes s = sizes(q, k, v);
    const Tensor grad_q = zero_heads(q);
    const Tensor grad_k = zero_heads(k);
    const Tensor grad_v = zero_heads(v);
    const Tensor grad_out = with_dense_rows(b.grad(0));
    visit_floating(name, q.dtype(), [&]<class T>() {
      auto one = [&](int64_t bi, int64_t h, T* p, T* ds) {
        const int64_t kh = h / (s.heads / s.key_heads);
        const int64_t at = (bi * s.heads + h) * s.queries;
        BackwardHead<T>{head<T>(q, bi, h),
                        head<T>(k, bi, kh),
                        head<T>(v, bi, kh),
                        head<T>(b.saved(0), bi, h),
                        head<T>(grad_out, bi, h),
                        head<T>(grad_q, bi, h),
                        head<T>(grad_k, bi, kh),
                        head<T>(grad_v, bi, kh),
                        b.saved(1).template data<T>() + at,
                        grad_lse.defined() ? grad_lse.data<T>() + at : nullptr}
            .run(s, p, ds);
      };
      // One task per key head: its query heads add to the same gradients, in order.
      const int64_t group = s.heads / s.key_heads;
      parallel_for(s.batch * s.key_heads, s.batch * s.heads * s.queries * s.keys, [&](int64_t t) {
        std::vector<T> tiles(static_cast<size_t>(2 * kRows * kKeys));
        for (int64_t g = 0; g < group; ++g) {
          one(t / s.key_heads, t % s.key_heads * group + g, tiles.data(),
              tiles.data() + kRows * kKeys);
        }
      });
    });
    b.add(0, grad_q);
    b.add(1, grad_k);
    b.add(2, grad_v);
  }

 private:
  AttentionResult compute(const Tensor& query, const Tensor& key, const Tensor& value) const {
    if constexpr (kCuda) {
      if (query.device().is_cuda()) return dense_forward_cuda(query, key, value, options);
    }
    const Tensor q = with_dense_rows(query);
    const Tensor k = with_dense_rows(key);
    const Tensor v = with_dense_rows(value);
    const Sizes s = sizes(q, k, v);
    const Tensor out = empty_heads({s.batch, s.heads, s.queries, s.value_width}, q);
    const Tensor lse = empty({s.batch, s.heads, s.queries}, {q.dtype(), q.device()});
    visit_floating(name, q.dtype(), [&]<class T>() { run_forward<T>(s, q, k, v, out, lse); });
    return {out, lse};
  }

  static void count(const Sizes& s) {
    int64_t entries = 0;
    for (int64_t i = 0; i < s.queries; ++i) entries += s.visible(i);
    count_score_entries(entries * s.batch * s.heads);
  }

  template <class T>
  static void run_forward(const Sizes& s, const Tensor& q, const Tensor& k, const Tensor& v,
                          const Tensor& out, const Tensor& lse) {
    const int64_t blocks = (s.queries + kRows - 1) / kRows;
    const int64_t work = s.batch * s.heads * s.queries * s.keys;
    parallel_for(s.batch * s.heads * blocks, work, [&](int64_t t) {
      const int64_t h = t / blocks % s.heads;
      const int64_t bi = t / blocks / s.heads;
      const int64_t kh = h / (s.heads / s.key_heads);
      const int64_t begin = t % blocks * kRows;
      std::vector<T> scores(static_cast<size_t>(kRows * kKeys));
      forward_rows<T>(s, head<T>(q, bi, h), head<T>(k, bi, kh), head<T>(v, bi, kh),
                      head<T>(out, bi, h), lse.data<T>() + (bi * s.heads + h) * s.queries, begin,
                      std::min(kRows, s.queries - begin), scores.data());
    });
  }
};

OpSample attention_sample(const char* label, const Shape& q, const Shape& k, DenseOptions options) {
  return {label,
          {samples::strided(samples::normal(q)), samples::normal(k, 1), samples::normal(k, 2)},
          [options](const TensorList& in) {
            const AttentionResult r = dense_attention(in[0], in[1], in[2], options);
            return TensorList{r.output, r.logsumexp};
          },
          [options](const TensorList& in) {
            const AttentionResult r = dense_attention_reference(in[0], in[1], in[2], options);
            return TensorList{r.output, r.logsumexp};
          }};
}

const RegisterOp row{{
    .name = "dense_attention",
    .formula = "O = softmax(scale Q Kᵀ) V, L = logsumexp(scale Q Kᵀ)",
    .source = "Vaswani et al. 2017; Dao et al. 2022",
    .samples =
        [] {
          return std::vector<OpSample>{
              attention_sample("all keys", {2, 2, 3, 4}, {2, 2, 5, 4}, {}),
              attention_sample("causal", {1, 2, 4, 3}, {1, 2, 4, 3}, {.causal = true}),
              attention_sample("causal after a cache", {1, 1, 2, 3}, {1, 1, 5, 3},
                               {.causal = true}),
              attention_sample("grouped heads", {1, 4, 3, 2}, {1, 2, 3, 2}, {.causal = true}),
              attention_sample("one key", {1, 1, 3, 2}, {1, 1, 1, 2}, {.scale = 0.3}),
              attention_sample("no queries", {1, 1, 0, 2}, {1, 1, 2, 2}, {})};
        },
    .wrong_calls = {[] {
                      dense_attention(samples::normal({1, 3, 2, 4}), samples::normal({1, 2, 2, 4}),
                                      samples::normal({1, 2, 2, 4}));
                    },
                    [] {
                      dense_attention(samples::normal({1, 2, 2, 4}), samples::normal({1, 2, 2, 5}),
                                      samples::normal({1, 2, 2, 5}));
                    }},
}};

}  // namespace

AttentionResult dense_attention(const Tensor& query, const Tensor& key, const Tensor& value,
                                const DenseOptions& options) {
  check(query.rank() == 4 && key.rank() == 4 && value.rank() == 4,
        "dense_attention: wants (B, H, N, D), got {}, {}, {}", query.shape(), key.shape(),
        value.shape());
  check(query.size(0) == key.size(0) && query.size(3) == key.size(3) &&
            key.size(0) == value.size(0) && key.size(1) == value.size(1) &&
            key.size(2) == value.size(2),
        "dense_attention: query {}, key {} and value {} do not fit one another", query.shape(),
        key.shape(), value.shape());
  check(key.size(1) > 0 && query.size(1) % key.size(1) == 0,
        "dense_attention: {} query heads are not a multiple of {} key heads", query.size(1),
        key.size(1));
  check(query.dtype() == key.dtype() && key.dtype() == value.dtype(),
        "dense_attention: dtypes differ: {}, {}, {}", query.dtype(), key.dtype(), value.dtype());
  check(query.device() == key.device() && key.device() == value.device(),
        "dense_attention: devices differ: {}, {}, {}", query.device(), key.device(),
        value.device());
  DenseOptions resolved = options;
  if (resolved.scale == 0) resolved.scale = 1 / std::sqrt(static_cast<double>(query.size(3)));
  TensorList out = apply(DenseAttention{resolved}, query, key, value);
  return {out[0], out[1]};
}

}  // namespace tessera
