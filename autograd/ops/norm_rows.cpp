#include "tessera/autograd/ops/norm_rows.h"

#include <cmath>

#include "tessera/autograd/ops/norm_parts.h"
#include "tessera/autograd/ops/norm_rows_cuda.h"
#include "tessera/core/kernels/fill.h"
#include "tessera/core/parallel.h"

namespace tessera::detail {
namespace {

template <class T>
struct RowStats {
  T mean;
  T scale;  // 1 / √(σ² + ε)
};

template <class T>
T* data_or_null(const Tensor& x) {
  return x.defined() ? x.data<T>() : nullptr;
}

template <class T>
RowStats<T> stats_of(const NormRows& o, const T* x) {
  const auto n = static_cast<double>(o.size);
  const T mean =
      o.centered ? static_cast<T>(sum_of<T>(o.size, [=](int64_t i) { return x[i]; }) / n) : T(0);
  const double squares =
      sum_of<T>(o.size, [=](int64_t i) { return (x[i] - mean) * (x[i] - mean); });
  return {mean, static_cast<T>(1 / std::sqrt(squares / n + o.eps))};
}

template <class T>
void run(const NormRows& o, const NormRows::Forward& f) {
  const int64_t size = o.size;
  const Tensor dense_weight = dense_or(f.weight, 1, size, f.x.dtype());
  const Tensor dense_bias = dense_or(f.bias, 0, size, f.x.dtype());
  const T* w = dense_weight.data<T>();
  const T* shift = dense_bias.data<T>();
  auto* stats = reinterpret_cast<RowStats<T>*>(f.stats.data<T>());
  const T* branch = data_or_null<T>(f.branch);
  T* sum = data_or_null<T>(f.sum);
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, size));
  const int64_t rows = o.rows(f.x);
  parallel_for((rows + grain - 1) / grain, f.x.numel(), [&](int64_t piece) {
    for (int64_t r = piece * grain; r < std::min(rows, (piece + 1) * grain); ++r) {
      const T* x = f.x.data<T>() + r * size;
      T* y = f.y.data<T>() + r * size;
      if (branch != nullptr) {
        const T* added = branch + r * size;
        T* s = sum + r * size;
#pragma omp simd
        for (int64_t i = 0; i < size; ++i) s[i] = x[i] + added[i];
        x = s;
      }
      const RowStats<T> s = stats[r] = stats_of(o, x);
#pragma omp simd
      for (int64_t i = 0; i < size; ++i) y[i] = (x[i] - s.mean) * s.scale * w[i] + shift[i];
    }
  });
}

// One row: gx = s (h − mean(h) − x̂ mean(h x̂)) with h = w g; adds its part of the gradients of
// weight and bias.
template <class T>
void row_back(const NormRows& o, const T* x, const T* w, const T* g, const T* residual,
              RowStats<T> s, T* gx, T* gw, T* gb) {
  const auto n = static_cast<double>(o.size);
  const auto normal = [=](int64_t i) { return (x[i] - s.mean) * s.scale; };
  const auto c1 = static_cast<T>(
      o.centered ? sum_of<T>(o.size, [=](int64_t i) { return w[i] * g[i]; }) / n : 0.0);
  const auto c2 =
      static_cast<T>(sum_of<T>(o.size, [=](int64_t i) { return w[i] * g[i] * normal(i); }) / n);
#pragma omp simd
  for (int64_t i = 0; i < o.size; ++i) {
    const T z = normal(i);
    gx[i] = s.scale * (w[i] * g[i] - c1 - z * c2);
    gw[i] += g[i] * z;
    gb[i] += g[i];
  }
  if (residual == nullptr) return;
#pragma omp simd
  for (int64_t i = 0; i < o.size; ++i) gx[i] += residual[i];
}

// result = the sum of the parts' rows, every second of them from `first` on.
template <class T>
void add_parts(const Tensor& parts, int64_t first, const Tensor& result) {
  if (!result.defined()) return;
  kernels::fill(result, 0);
  const int64_t size = parts.size(2);
  T* total = result.data<T>();
  for (int64_t p = 0; p < kSumParts; ++p) {
    const T* sums = parts.data<T>() + (p * 2 + first) * size;
    for (int64_t i = 0; i < size; ++i) total[i] += sums[i];
  }
}

template <class T>
void run_back(const NormRows& o, const NormRows::Backward& b) {
  const int64_t size = o.size;
  const Tensor dense_weight = dense_or(b.weight, 1, size, b.s.dtype());
  const T* w = dense_weight.data<T>();
  const T* residual = data_or_null<T>(b.residual);
  const auto* stats = reinterpret_cast<const RowStats<T>*>(b.stats.data<T>());
  const int64_t rows = o.rows(b.s);
  const int64_t part = (rows + kSumParts - 1) / kSumParts;
  const Tensor parts = zeros({kSumParts, 2, size}, {b.s.dtype(), {}});
  parallel_for(kSumParts, b.s.numel(), [&](int64_t p) {
    T* sums = parts.data<T>() + p * 2 * size;
    for (int64_t r = p * part; r < std::min(rows, (p + 1) * part); ++r) {
      row_back(o, b.s.data<T>() + r * size, w, b.grad.data<T>() + r * size,
               residual == nullptr ? nullptr : residual + r * size, stats[r],
               b.gs.data<T>() + r * size, sums, sums + size);
    }
  });
  add_parts<T>(parts, 0, b.gw);
  add_parts<T>(parts, 1, b.gb);
}

}  // namespace

void NormRows::forward(const Forward& f) const {
  if constexpr (kCuda) {
    if (f.x.device().is_cuda()) return norm_rows_cuda(*this, f);
  }
  visit_floating(op, f.x.dtype(), [&]<class T>() { run<T>(*this, f); });
}

void NormRows::backward(const Backward& b) const {
  if constexpr (kCuda) {
    if (b.s.device().is_cuda()) return norm_rows_backward_cuda(*this, b);
  }
  visit_floating(op, b.s.dtype(), [&]<class T>() { run_back<T>(*this, b); });
}

}  // namespace tessera::detail
