#include "tessera/autograd/ops/norm.h"

#include <cmath>

#include "tessera/autograd/op.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/pointwise.h"
#include "tessera/autograd/registry.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/parallel.h"
#include "tessera/core/view.h"

namespace tessera {
namespace {

struct InverseRoot {  // 1 / √(x + ε)
  static constexpr std::string_view name = "inverse_root";
  double eps;
  template <class T>
  T operator()(T x) const {
    return math::rsqrt(x + constant<T>(eps));
  }
};

// What the definitions share: (rows, size) → (x − μ) / √(σ² + ε) along the last dimension.
Tensor normalized(const Tensor& x, bool centered, double eps) {
  const double share = 1.0 / static_cast<double>(x.size(-1));
  const Tensor d = centered ? x - sum(x, {-1}, true) * share : x;
  return d * pointwise(InverseRoot{eps}, sum(d * d, {-1}, true) * share);
}

// Σ f(i) for i < n: vector lanes of T within short pieces, double across them.
template <class T, class Fn>
double sum_of(int64_t n, const Fn& f) {
  constexpr int64_t kPiece = 256;
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += kPiece) {
    const int64_t end = std::min(n, begin + kPiece);
    T piece = 0;
#pragma omp simd reduction(+ : piece)
    for (int64_t i = begin; i < end; ++i) piece += f(i);
    total += static_cast<double>(piece);
  }
  return total;
}

// The parameters of a kernel; absent ones become what changes nothing.
Tensor dense_or(const Tensor& parameter, double value, int64_t size, DType dtype) {
  return parameter.defined() ? kernels::contiguous(parameter) : full({size}, value, {dtype, {}});
}

// ---- Rows: layer norm and RMS norm -------------------------------------------------------------

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

// ---- Planes: batch norm and group norm ----------------------------------------------------------

// x (B, C, …) is B · C planes of `plane` values, one per sample and channel. A unit is the planes
// that are normalised together: unit · unit_step + i · plane_step for i < planes.
struct Units {
  int64_t count, planes, unit_step, plane_step;
  int64_t channels, plane;

  int64_t index(int64_t unit, int64_t i) const { return unit * unit_step + i * plane_step; }
  double values() const { return static_cast<double>(planes * plane); }
};

struct PlaneNorm {
  std::string_view name;
  int64_t groups;  // 0: statistics per channel over the batch
  double eps;

  // {y, mean, variance}, the statistics per unit.
  TensorList forward(Forward& f, const Tensor& x, const Tensor& weight, const Tensor& bias) const {
    const Units u = units(x.shape());
    const Options options{x.dtype(), x.device()};
    const Tensor source = kernels::contiguous(x);
    const Tensor y = empty(x.shape(), options);
    const Tensor mean = empty({u.count}, options);
    const Tensor variance = empty({u.count}, options);
    visit_floating(name, x.dtype(),
                   [&]<class T>() { run<T>(u, source, weight, bias, y, mean, variance); });
    f.save(mean, variance);
    return {y, mean, variance};
  }

  void backward(Backward& b) const {
    const Tensor x = kernels::contiguous(b.input(0));
    const Tensor g = kernels::contiguous(b.grad());
    const Units u = units(x.shape());
    const Tensor gx = empty_like(x);
    const Tensor gw = zeros({u.channels}, {x.dtype(), x.device()});
    const Tensor gb = zeros_like(gw);
    visit_floating(name, x.dtype(), [&]<class T>() {
      run_back<T>(u, x, b.input(1), g, b.saved(0), b.saved(1), gx, gw, gb);
    });
    b.add(0, gx);
    b.add(1, gw);
    b.add(2, gb);
  }

  TensorList definition(const TensorList& in) const {
    const Tensor& x = in[0];
    const Units u = units(x.shape());
    Shape planes{x.size(0), u.channels, u.plane};
    Tensor y;
    if (groups > 0) {
      y = normalized(reshape(x, {u.count, u.planes * u.plane}), true, eps);
      y = reshape(y, planes);
    } else {
      const Tensor turned = transpose(reshape(x, planes), 0, 1);
      y = normalized(reshape(turned, {u.count, u.planes * u.plane}), true, eps);
      y = transpose(reshape(y, turned.shape()), 0, 1);
    }
    if (in[1].defined()) y = y * reshape(in[1], {u.channels, 1});
    if (in[2].defined()) y = y + reshape(in[2], {u.channels, 1});
    return {reshape(y, x.shape())};
  }

 private:
  Units units(const Shape& shape) const {
    const int64_t batch = shape[0];
    const int64_t channels = shape[1];
    int64_t plane = 1;
    for (int64_t d = 2; d < shape.rank(); ++d) plane *= shape[d];
    if (groups == 0) return {channels, batch, 1, channels, channels, plane};
    const int64_t width = channels / groups;
    return {batch * groups, width, width, 1, channels, plane};
  }

  template <class T>
  void run(const Units& u, const Tensor& source, const Tensor& weight, const Tensor& bias,
           const Tensor& result, const Tensor& means, const Tensor& variances) const {
    const Tensor dense_weight = dense_or(weight, 1, u.channels, source.dtype());
    const Tensor dense_bias = dense_or(bias, 0, u.channels, source.dtype());
    parallel_for(u.count, source.numel(), [&](int64_t unit) {
      double total = 0;
      double squares = 0;
      for (int64_t i = 0; i < u.planes; ++i) {
        const T* x = source.data<T>() + u.index(unit, i) * u.plane;
        total += sum_of<T>(u.plane, [=](int64_t k) { return x[k]; });
      }
      const T mean = static_cast<T>(total / u.values());
      for (int64_t i = 0; i < u.planes; ++i) {
        const T* x = source.data<T>() + u.index(unit, i) * u.plane;
        squares += sum_of<T>(u.plane, [=](int64_t k) { return (x[k] - mean) * (x[k] - mean); });
      }
      const double variance = squares / u.values();
      const double scale = 1 / std::sqrt(variance + eps);
      for (int64_t i = 0; i < u.planes; ++i) {
        const int64_t at = u.index(unit, i);
        const int64_t c = at % u.channels;
        const T* x = source.data<T>() + at * u.plane;
        T* y = result.data<T>() + at * u.plane;
        const T factor = static_cast<T>(scale) * dense_weight.data<T>()[c];
        const T shift = dense_bias.data<T>()[c];
#pragma omp simd
        for (int64_t k = 0; k < u.plane; ++k) y[k] = (x[k] - mean) * factor + shift;
      }
      means.data<T>()[unit] = mean;
      variances.data<T>()[unit] = static_cast<T>(variance);
    });
  }

  template <class T>
  void run_back(const Units& u, const Tensor& source, const Tensor& weight, const Tensor& grad,
                const Tensor& means, const Tensor& variances, const Tensor& result,
                const Tensor& grad_weight, const Tensor& grad_bias) const {
    const Tensor dense_weight = dense_or(weight, 1, u.channels, source.dtype());
    const int64_t all = source.shape()[0] * u.channels;
    const Tensor sums = empty({all, 2}, {DType::f64, {}});  // Σ g and Σ g x̂ of every plane
    parallel_for(u.count, source.numel(), [&](int64_t unit) {
      const T mean = means.data<T>()[unit];
      const double variance = static_cast<double>(variances.data<T>()[unit]);
      const T scale = static_cast<T>(1 / std::sqrt(variance + eps));
      double c1 = 0;
      double c2 = 0;
      for (int64_t i = 0; i < u.planes; ++i) {
        const int64_t at = u.index(unit, i);
        const T* x = source.data<T>() + at * u.plane;
        const T* g = grad.data<T>() + at * u.plane;
        double* plane = sums.data<double>() + 2 * at;
        plane[0] = sum_of<T>(u.plane, [=](int64_t k) { return g[k]; });
        plane[1] = sum_of<T>(u.plane, [=](int64_t k) { return g[k] * ((x[k] - mean) * scale); });
        const auto w = static_cast<double>(dense_weight.data<T>()[at % u.channels]);
        c1 += w * plane[0] / u.values();
        c2 += w * plane[1] / u.values();
      }
      for (int64_t i = 0; i < u.planes; ++i) {
        const int64_t at = u.index(unit, i);
        const T* x = source.data<T>() + at * u.plane;
        const T* g = grad.data<T>() + at * u.plane;
        T* gx = result.data<T>() + at * u.plane;
        const T w = dense_weight.data<T>()[at % u.channels] * scale;
        const T shift = static_cast<T>(c1) * scale;
        const T slope = static_cast<T>(c2) * scale * scale;
#pragma omp simd
        for (int64_t k = 0; k < u.plane; ++k) gx[k] = w * g[k] - shift - (x[k] - mean) * slope;
      }
    });
    for (int64_t c = 0; c < u.channels; ++c) {
      double total[2] = {0, 0};
      for (int64_t at = c; at < all; at += u.channels) {
        total[0] += sums.data<double>()[2 * at];
        total[1] += sums.data<double>()[2 * at + 1];
      }
      grad_bias.data<T>()[c] = static_cast<T>(total[0]);
      grad_weight.data<T>()[c] = static_cast<T>(total[1]);
    }
  }
};

// ---- Checks -------------------------------------------------------------------------------------

void check_parameter(std::string_view op, const char* what, const Tensor& x, const Tensor& p,
                     const Shape& shape) {
  if (!p.defined()) return;
  check(p.shape() == shape, "{}: {} has shape {}, but x {} wants {}", op, what, p.shape(),
        x.shape(), shape);
  check(p.dtype() == x.dtype() && p.device() == x.device(),
        "{}: {} is {} on {}, but x is {} on {}; convert one with to()", op, what, p.dtype(),
        p.device(), x.dtype(), x.device());
}

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

void check_planes(std::string_view op, const Tensor& x, const Tensor& weight, const Tensor& bias) {
  check(x.rank() >= 2, "{}: x must be (B, C, …), got {}", op, x.shape());
  check_parameter(op, "weight", x, weight, {x.size(1)});
  check_parameter(op, "bias", x, bias, {x.size(1)});
}

// ---- Rows of the registry -----------------------------------------------------------------------

template <class Op>
OpSample fused_sample(const char* label, const Op& op, const TensorList& inputs) {
  return {label, inputs,
          [op](const TensorList& x) {
            return TensorList{detail::as_list(apply(op, x[0], x[1], x[2]))[0]};
          },
          [op](const TensorList& x) { return detail::as_list(op.definition(x)); }};
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

std::vector<OpSample> batch_norm_samples() {
  const PlaneNorm op{"batch_norm", 0, 1e-3};
  const Tensor none;
  const Tensor weight = samples::normal({3}, 2);
  const Tensor bias = samples::normal({3}, 3);
  std::vector<OpSample> list = {
      fused_sample("images", op, {samples::normal({2, 3, 2, 2}), weight, bias}),
      fused_sample("(B, C)", op, {samples::normal({4, 3}), weight, bias}),
      fused_sample("no parameters", op, {samples::normal({2, 3, 2}), none, none}),
      fused_sample("strided", op, {samples::strided(samples::normal({2, 3, 3})), weight, none}),
      fused_sample("one value per channel", op, {samples::normal({1, 3}), weight, bias})};
  for (const Shape& shape : {Shape{2, 3, 2}, Shape{0, 3, 2}}) {
    list.push_back(
        {fmt::format("evaluation {}", shape),
         {samples::normal(shape), samples::normal({3}, 4), samples::positive({3}, 5), weight, bias},
         [](const TensorList& x) {
           return TensorList{batch_norm(x[0], x[1], x[2], x[3], x[4], 1e-3)};
         },
         {}});
  }
  return list;
}

const RegisterOp batch_norm_row{{
    .name = "batch_norm",
    .formula = "y = (x − μ) / √(σ² + ε) · weight + bias, statistics per channel over the batch",
    .source = "Ioffe and Szegedy 2015, Batch Normalization",
    .samples = batch_norm_samples,
    .wrong_calls = {[] { batch_norm(samples::normal({3})); },
                    [] {
                      batch_norm(samples::normal({0, 3}));
                    },
                    [] {
                      batch_norm(samples::normal({2, 3}), samples::normal({2}));
                    },
                    [] {
                      batch_norm(samples::normal({2, 3}), samples::normal({2}),
                                 samples::positive({3}), {}, {}, 1e-5);
                    }},
}};

const RegisterOp group_norm_row{{
    .name = "group_norm",
    .formula = "y = (x − μ) / √(σ² + ε) · weight + bias, statistics per sample and channel group",
    .source = "Wu and He 2018, Group Normalization",
    .samples =
        [] {
          const Tensor none;
          const Tensor weight = samples::normal({4}, 2);
          const Tensor bias = samples::normal({4}, 3);
          const auto op = [](int64_t groups) { return PlaneNorm{"group_norm", groups, 1e-3}; };
          return std::vector<OpSample>{
              fused_sample("two groups", op(2), {samples::normal({2, 4, 3}), weight, bias}),
              fused_sample("instance norm", op(4), {samples::normal({2, 4, 2, 2}), weight, bias}),
              fused_sample("one group", op(1), {samples::normal({2, 4}), weight, none}),
              fused_sample("no parameters", op(2), {samples::normal({1, 4, 2}), none, none}),
              fused_sample("strided", op(2),
                           {samples::strided(samples::normal({2, 4, 3})), weight, bias}),
              fused_sample("no samples", op(2), {samples::normal({0, 4, 3}), weight, bias})};
        },
    .wrong_calls = {[] {
                      group_norm(samples::normal({2, 4}), 3);
                    },
                    [] {
                      group_norm(samples::normal({2, 4}), 0);
                    },
                    [] { group_norm(samples::normal({4}), 2); },
                    [] {
                      group_norm(samples::normal({2, 4}), 2, samples::normal({2}));
                    }},
}};

}  // namespace

Tensor layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps) {
  return row_norm("layer_norm", true, x, weight, bias, eps);
}

Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps) {
  return row_norm("rms_norm", false, x, weight, {}, eps);
}

BatchNormResult batch_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps) {
  check_planes("batch_norm", x, weight, bias);
  check(x.numel() > 0, "batch_norm: no values to take statistics of in x {}", x.shape());
  const TensorList out = apply(PlaneNorm{"batch_norm", 0, eps}, x, weight, bias);
  return {out[0], out[1].detach(), out[2].detach()};
}

Tensor batch_norm(const Tensor& x, const Tensor& mean, const Tensor& variance, const Tensor& weight,
                  const Tensor& bias, double eps) {
  check_planes("batch_norm", x, weight, bias);
  check_parameter("batch_norm", "mean", x, mean, {x.size(1)});
  check_parameter("batch_norm", "variance", x, variance, {x.size(1)});
  Tensor scale = pointwise(InverseRoot{eps}, variance);
  if (weight.defined()) scale = scale * weight;
  Tensor shift = -(mean * scale);
  if (bias.defined()) shift = shift + bias;
  Shape channels = Shape::filled(x.rank() - 1, 1);
  channels[0] = x.size(1);
  return x * reshape(scale, channels) + reshape(shift, channels);
}

Tensor group_norm(const Tensor& x, int64_t groups, const Tensor& weight, const Tensor& bias,
                  double eps) {
  check_planes("group_norm", x, weight, bias);
  check(groups > 0 && x.size(1) % groups == 0,
        "group_norm: the {} channels of x {} do not split into {} groups", x.size(1), x.shape(),
        groups);
  return apply(PlaneNorm{"group_norm", groups, eps}, x, weight, bias)[0];
}

Tensor instance_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps) {
  check(x.rank() >= 2, "instance_norm: x must be (B, C, …), got {}", x.shape());
  return group_norm(x, std::max<int64_t>(1, x.size(1)), weight, bias, eps);
}

}  // namespace tessera
