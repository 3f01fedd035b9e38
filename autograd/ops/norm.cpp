#include "tessera/autograd/ops/norm.h"

#include <cmath>

#include "tessera/autograd/ops/norm_parts.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/core/parallel.h"
#include "tessera/core/view.h"

namespace tessera {
namespace {

using detail::check_parameter;
using detail::dense_or;
using detail::fused_sample;
using detail::normalized;
using detail::sum_of;

template <class T>
struct RowStats {
  T mean;
  T scale;  // 1 / √(σ² + ε)
};

struct RowNorm {
  std::string_view name;
  bool centered;
  int64_t size;  // of a row
  double eps;

  Tensor forward(Forward& f, const Tensor& x, const Tensor& weight, const Tensor& bias) const {
    const Tensor source = kernels::contiguous(x);
    const Tensor y = empty(x.shape(), {x.dtype(), x.device()});
    const int64_t rows = size == 0 ? 0 : x.numel() / size;
    const Tensor stats = empty({rows, 2}, {x.dtype(), x.device()});
    visit_floating(name, x.dtype(), [&]<class T>() { run<T>(source, weight, bias, y, stats); });
    f.save(stats);
    return y;
  }

  void backward(Backward& b) const {
    const Tensor x = kernels::contiguous(b.input(0));
    const Tensor g = kernels::contiguous(b.grad());
    const Tensor gx = empty_like(x);
    const Tensor gw = zeros({size}, {x.dtype(), x.device()});
    const Tensor gb = zeros_like(gw);
    visit_floating(name, x.dtype(),
                   [&]<class T>() { run_back<T>(x, b.input(1), g, b.saved(0), gx, gw, gb); });
    b.add(0, gx);
    if (b.needs(1)) b.add(1, views::reshape(gw, b.input(1).shape()));
    if (b.needs(2)) b.add(2, views::reshape(gb, b.input(2).shape()));
  }

  Tensor definition(const TensorList& in) const {
    const int64_t rows = size == 0 ? 0 : in[0].numel() / size;
    Tensor y = normalized(reshape(in[0], {rows, size}), centered, eps);
    if (in[1].defined()) y = y * reshape(in[1], {size});
    if (in[2].defined()) y = y + reshape(in[2], {size});
    return reshape(y, in[0].shape());
  }

 private:
  template <class T>
  RowStats<T> stats_of(const T* x) const {
    const auto n = static_cast<double>(size);
    const T mean =
        centered ? static_cast<T>(sum_of<T>(size, [=](int64_t i) { return x[i]; }) / n) : T(0);
    const double squares =
        sum_of<T>(size, [=](int64_t i) { return (x[i] - mean) * (x[i] - mean); });
    return {mean, static_cast<T>(1 / std::sqrt(squares / n + eps))};
  }

  template <class T>
  void run(const Tensor& source, const Tensor& weight, const Tensor& bias, const Tensor& result,
           const Tensor& kept) const {
    const Tensor dense_weight = dense_or(weight, 1, size, source.dtype());
    const Tensor dense_bias = dense_or(bias, 0, size, source.dtype());
    const T* w = dense_weight.data<T>();
    const T* shift = dense_bias.data<T>();
    auto* stats = reinterpret_cast<RowStats<T>*>(kept.data<T>());
    const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, size));
    const int64_t rows = kept.size(0);
    parallel_for((rows + grain - 1) / grain, source.numel(), [&](int64_t piece) {
      for (int64_t r = piece * grain; r < std::min(rows, (piece + 1) * grain); ++r) {
        const T* x = source.data<T>() + r * size;
        T* y = result.data<T>() + r * size;
        const RowStats<T> s = stats[r] = stats_of(x);
#pragma omp simd
        for (int64_t i = 0; i < size; ++i) y[i] = (x[i] - s.mean) * s.scale * w[i] + shift[i];
      }
    });
  }

  // One row: gx = s (h − mean(h) − x̂ mean(h x̂)) with h = w g; adds its part of the gradients of
  // weight and bias.
  template <class T>
  void row_back(const T* x, const T* w, const T* g, RowStats<T> s, T* gx, T* gw, T* gb) const {
    const auto n = static_cast<double>(size);
    const auto normal = [=](int64_t i) { return (x[i] - s.mean) * s.scale; };
    const auto c1 = static_cast<T>(
        centered ? sum_of<T>(size, [=](int64_t i) { return w[i] * g[i]; }) / n : 0.0);
    const auto c2 =
        static_cast<T>(sum_of<T>(size, [=](int64_t i) { return w[i] * g[i] * normal(i); }) / n);
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) {
      const T z = normal(i);
      gx[i] = s.scale * (w[i] * g[i] - c1 - z * c2);
      gw[i] += g[i] * z;
      gb[i] += g[i];
    }
  }

  template <class T>
  void run_back(const Tensor& source, const Tensor& weight, const Tensor& grad, const Tensor& kept,
                const Tensor& result, const Tensor& grad_weight, const Tensor& grad_bias) const {
    const Tensor dense_weight = dense_or(weight, 1, size, source.dtype());
    const T* w = dense_weight.data<T>();
    const auto* stats = reinterpret_cast<const RowStats<T>*>(kept.data<T>());
    const int64_t rows = kept.size(0);
    const int64_t part = (rows + kSumParts - 1) / kSumParts;
    const Tensor parts = zeros({kSumParts, 2, size}, {source.dtype(), {}});
    parallel_for(kSumParts, source.numel(), [&](int64_t p) {
      T* sums = parts.data<T>() + p * 2 * size;
      for (int64_t r = p * part; r < std::min(rows, (p + 1) * part); ++r) {
        row_back(source.data<T>() + r * size, w, grad.data<T>() + r * size, stats[r],
                 result.data<T>() + r * size, sums, sums + size);
      }
    });
    for (int64_t p = 0; p < kSumParts; ++p) {
      const T* sums = parts.data<T>() + p * 2 * size;
      for (int64_t i = 0; i < size; ++i) grad_weight.data<T>()[i] += sums[i];
      for (int64_t i = 0; i < size; ++i) grad_bias.data<T>()[i] += sums[size + i];
    }
  }
};

Tensor row_norm(std::string_view op, bool centered, const Tensor& x, const Tensor& weight,
                const Tensor& bias, double eps) {
  check(x.rank() >= 1, "{}: x must have at least one dimension, got a scalar", op);
  const Shape wanted = weight.defined() ? weight.shape()
                       : bias.defined() ? bias.shape()
                                        : Shape{x.size(-1)};
  const int64_t lead = x.rank() - wanted.rank();
  check(lead >= 0 && wanted.rank() >= 1 &&
            std::equal(wanted.begin(), wanted.end(), x.shape().begin() + lead),
        "{}: weight or bias {} does not fit the last dimensions of x {}", op, wanted, x.shape());
  check_parameter(op, "weight", x, weight, wanted);
  check_parameter(op, "bias", x, bias, wanted);
  return apply(RowNorm{op, centered, wanted.numel(), eps}, x, weight, bias);
}

std::vector<OpSample> row_samples(std::string_view op, bool centered) {
  const auto normal = [](const Shape& shape, uint64_t salt = 0) {
    return samples::normal(shape, salt);
  };
  const auto row = [op, centered](int64_t size) { return RowNorm{op, centered, size, 1e-3}; };
  const Tensor none;
  const Tensor bias = centered ? normal({5}, 3) : none;
  return {fused_sample("weight and bias", row(5), {normal({2, 3, 5}), normal({5}, 2), bias}),
          fused_sample("no parameters", row(4), {normal({3, 4}), none, none}),
          fused_sample("over two dimensions", row(6), {normal({2, 2, 3}), normal({2, 3}, 2), none}),
          fused_sample("strided", row(5), {samples::strided(normal({4, 5})), normal({5}, 2), bias}),
          fused_sample("many rows", row(5), {normal({37, 5}), normal({5}, 2), bias}),
          fused_sample("rows of one value", row(1), {normal({3, 1}), normal({1}, 2), none}),
          fused_sample("no rows", row(5), {normal({0, 5}), normal({5}, 2), bias}),
          fused_sample("empty rows", row(0), {normal({3, 0}), normal({0}, 2), none})};
}

const RegisterOp layer_norm_row{{
    .name = "layer_norm",
    .formula = "y = (x − μ) / √(σ² + ε) · weight + bias, statistics per row",
    .source = "Ba et al. 2016, Layer Normalization",
    .samples = [] { return row_samples("layer_norm", true); },
    .wrong_calls = {[] {
                      layer_norm(samples::normal({2, 3}), samples::normal({2}));
                    },
                    [] { layer_norm(samples::normal({})); },
                    [] {
                      layer_norm(samples::integers({2, 3}, 0, 5));
                    },
                    [] { layer_norm(samples::normal({3}), samples::normal({3}).to(DType::f32)); }},
}};

const RegisterOp rms_norm_row{{
    .name = "rms_norm",
    .formula = "y = x / √(mean(x²) + ε) · weight, per row",
    .source = "Zhang and Sennrich 2019, Root Mean Square Layer Normalization",
    .samples = [] { return row_samples("rms_norm", false); },
    .wrong_calls = {[] {
                      rms_norm(samples::normal({2, 3}), samples::normal({2}));
                    },
                    [] { rms_norm(samples::normal({})); }},
}};

}  // namespace

Tensor layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps) {
  return row_norm("layer_norm", true, x, weight, bias, eps);
}

Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps) {
  return row_norm("rms_norm", false, x, weight, {}, eps);
}

}  // namespace tessera
