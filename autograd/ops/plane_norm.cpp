#include "tessera/autograd/ops/norm.h"

#include <cmath>

#include "tessera/autograd/ops/norm_parts.h"
#include "tessera/autograd/ops/plane_norm_cuda.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/core/parallel.h"

namespace tessera {
namespace {

using detail::check_parameter;
using detail::dense_or;
using detail::fused_sample;
using detail::normalized;
using Units = detail::PlaneUnits;
using detail::sum_of;

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
    const Tensor mean = empty({u.count}, {detail::statistics_dtype(x), x.device()});
    const Tensor variance = empty_like(mean);
    launch(u, source, weight, bias, y, mean, variance);
    f.save(mean, variance);
    return {y, mean, variance};
  }

  void backward(Backward& b) const {
    const Tensor x = kernels::contiguous(b.input(0));
    const Tensor g = kernels::contiguous(b.grad());
    const Units u = units(x.shape());
    const Tensor gx = empty_like(x);
    const Tensor gw = parameter_grad(b, 1), gb = parameter_grad(b, 2);
    launch_back(u, x, b.input(1), g, b.saved(0), b.saved(1), gx, gw, gb);
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
    return {reshape(y, x.shape()).to(x.dtype())};
  }

 private:
  Units units(const Shape& shape) const {
    const int64_t batch = shape[0];
    const int64_t channels = shape[1];
    int64_t plane = 1;
    for (int64_t d = 2; d < shape.rank(); ++d) plane *= shape[d];
    if (groups == 0) return {channels, batch, 1, channels, channels, plane, false};
    const int64_t width = channels / groups;
    return {batch * groups, width, width, 1, channels, plane, true};
  }

  static Tensor parameter_grad(const Backward& b, int input) {
    if (!b.needs(input)) return {};
    const Tensor parameter = b.input(input);
    return zeros(parameter.shape(), {parameter.dtype(), parameter.device()});
  }

  void launch(const Units& u, const Tensor& x, const Tensor& weight, const Tensor& bias,
              const Tensor& y, const Tensor& mean, const Tensor& variance) const {
    if constexpr (kCuda) {
      if (x.device().is_cuda()) {
        return detail::plane_norm_cuda(name, u, eps, x, weight, bias, y, mean, variance);
      }
    }
    visit_floating(name, x.dtype(),
                   [&]<class T>() { run<T>(u, x, weight, bias, y, mean, variance); });
  }

  void launch_back(const Units& u, const Tensor& x, const Tensor& weight, const Tensor& grad,
                   const Tensor& mean, const Tensor& variance, const Tensor& gx, const Tensor& gw,
                   const Tensor& gb) const {
    if constexpr (kCuda) {
      if (x.device().is_cuda()) {
        return detail::plane_norm_backward_cuda(name, u, eps, x, weight, grad, mean, variance, gx,
                                                gw, gb);
      }
    }
    visit_floating(name, x.dtype(),
                   [&]<class T>() { run_back<T>(u, x, weight, grad, mean, variance, gx, gw, gb); });
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
      if (grad_bias.defined()) grad_bias.data<T>()[c] = static_cast<T>(total[0]);
      if (grad_weight.defined()) grad_weight.data<T>()[c] = static_cast<T>(total[1]);
    }
  }
};

void check_planes(std::string_view op, const Tensor& x, const Tensor& weight, const Tensor& bias) {
  check(x.rank() >= 2, "{}: x must be (B, C, …), got {}", op, x.shape());
  check_parameter(op, "weight", x, weight, {x.size(1)});
  check_parameter(op, "bias", x, bias, {x.size(1)});
}

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
  Tensor scale = detail::inverse_root(variance, eps);
  if (weight.defined()) scale = scale * weight;
  Tensor shift = -(mean * scale);
  if (bias.defined()) shift = shift + bias;
  Shape channels = Shape::filled(x.rank() - 1, 1);
  channels[0] = x.size(1);
  return (x * reshape(scale, channels) + reshape(shift, channels)).to(x.dtype());
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
