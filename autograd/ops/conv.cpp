#include "tessera/autograd/ops/conv.h"

#include "tessera/autograd/op.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/conv_kernels.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/registry.h"
#include "tessera/core/kernels/copy.h"

namespace tessera {
namespace {

using kernels::ConvPlan;

Tensor input_of(std::string_view op, const ConvPlan& plan, const Tensor& y, const Tensor& w);
Tensor weight_of(std::string_view op, const ConvPlan& plan, const Tensor& x, const Tensor& y);

// The three are the partial derivatives of one trilinear form, so they are closed under
// differentiation.
struct Conv {
  std::string_view name;
  ConvPlan plan;

  Tensor forward(Forward& f, const Tensor& x, const Tensor& w, const Tensor& bias) const {
    f.save(x, w);
    return kernels::conv(plan, kernels::contiguous(x), kernels::contiguous(w),
                         bias.defined() ? kernels::contiguous(bias) : bias);
  }
  void backward(Backward& b) const {
    const Tensor& g = b.grad();
    if (b.needs(0)) b.add(0, input_of(name, plan, g, b.saved(1)));
    if (b.needs(1)) b.add(1, weight_of(name, plan, b.saved(0), g));
    if (!b.needs(2)) return;
    const Tensor planes = flatten(g, 2);
    b.add(2, g.device().is_cuda() ? sum(planes, {0, 2}) : sum(sum(planes, {2}), {0}));
  }
};

struct ConvInput {  // (y, w) → x
  std::string_view name;
  ConvPlan plan;

  Tensor forward(Forward& f, const Tensor& y, const Tensor& w) const {
    f.save(y, w);
    return kernels::conv_input(plan, kernels::contiguous(y), kernels::contiguous(w));
  }
  void backward(Backward& b) const {
    const Tensor& g = b.grad();
    if (b.needs(0)) b.add(0, apply(Conv{name, plan}, g, b.saved(1), Tensor()));
    if (b.needs(1)) b.add(1, weight_of(name, plan, g, b.saved(0)));
  }
};

struct ConvWeight {  // (x, y) → w
  std::string_view name;
  ConvPlan plan;

  Tensor forward(Forward& f, const Tensor& x, const Tensor& y) const {
    f.save(x, y);
    return kernels::conv_weight(plan, kernels::contiguous(x), kernels::contiguous(y));
  }
  void backward(Backward& b) const {
    const Tensor& g = b.grad();
    if (b.needs(0)) b.add(0, input_of(name, plan, b.saved(1), g));
    if (b.needs(1)) b.add(1, apply(Conv{name, plan}, b.saved(0), g, Tensor()));
  }
};

Tensor input_of(std::string_view op, const ConvPlan& plan, const Tensor& y, const Tensor& w) {
  return apply(ConvInput{op, plan}, y, w);
}
Tensor weight_of(std::string_view op, const ConvPlan& plan, const Tensor& x, const Tensor& y) {
  return apply(ConvWeight{op, plan}, x, y);
}

Shape spatial(const Tensor& x) {
  return Shape(std::span(x.shape().begin() + 2, x.shape().end()));
}

// `out` is the number of output channels, for the bias.
void check_inputs(std::string_view op, int64_t dims, const Tensor& x, const Tensor& weight,
                  const Tensor& bias, int64_t groups, int64_t out) {
  check(x.rank() == dims + 2 && weight.rank() == dims + 2,
        "{}: wants x and weight with {} dimensions, got {} and {}", op, dims + 2, x.shape(),
        weight.shape());
  check(groups >= 1 && x.size(1) % groups == 0 && weight.size(0) % groups == 0,
        "{}: the channels of x {} and weight {} do not split into {} groups", op, x.shape(),
        weight.shape(), groups);
  check(weight.dtype() == x.dtype() && weight.device() == x.device(),
        "{}: weight is {} on {}, but x is {} on {}; convert one with to()", op, weight.dtype(),
        weight.device(), x.dtype(), x.device());
  check(is_floating(x.dtype()) && (x.device().is_cuda() || !is_half(x.dtype())),
        "{}: wants f32 or f64 on the CPU, got {}; convert with to(DType::f32)", op, x.dtype());
  if (!bias.defined()) return;
  check(bias.shape() == Shape{out} && bias.dtype() == x.dtype() && bias.device() == x.device(),
        "{}: bias is {} {}, wants ({}) of dtype {} on {}", op, bias.dtype(), bias.shape(), out,
        x.dtype(), x.device());
}

Tensor convolve(std::string_view op, int64_t dims, const Tensor& x, const Tensor& weight,
                const Tensor& bias, const ConvOptions& options) {
  check_inputs(op, dims, x, weight, bias, options.groups, weight.size(0));
  check(weight.size(1) * options.groups == x.size(1),
        "{}: x {} has {} channels, but weight {} in {} groups wants {}", op, x.shape(), x.size(1),
        weight.shape(), options.groups, weight.size(1) * options.groups);
  const ConvPlan plan{kernels::make_window(op, spatial(x), spatial(weight), options.stride,
                                           options.padding, options.dilation),
                      options.groups};
  return apply(Conv{op, plan}, x, weight, bias);
}

// The sizes whose convolution has those of x.
Shape transposed_sizes(std::string_view op, const Tensor& x, const Shape& kernel,
                       const ConvTransposeOptions& options) {
  const int64_t rank = kernel.rank();
  const Shape in = spatial(x);
  const Shape stride = kernels::per_dimension(op, "stride", options.stride, rank, 1);
  const Shape padding = kernels::per_dimension(op, "padding", options.padding, rank, 0);
  const Shape extra = kernels::per_dimension(op, "output_padding", options.output_padding, rank, 0);
  const Shape dilation = kernels::per_dimension(op, "dilation", options.dilation, rank, 1);
  Shape out = in;
  for (int64_t d = 0; d < rank; ++d) {
    check(extra[d] >= 0 && extra[d] < stride[d],
          "{}: output_padding {} must be at least 0 and smaller than stride {}", op, extra, stride);
    out[d] =
        (in[d] - 1) * stride[d] - 2 * padding[d] + dilation[d] * (kernel[d] - 1) + extra[d] + 1;
    check(in[d] >= 1 && out[d] >= 1, "{}: x {} with kernel {} and padding {} has no output", op,
          x.shape(), kernel, padding);
  }
  return out;
}

Tensor convolve_transposed(std::string_view op, int64_t dims, const Tensor& x, const Tensor& weight,
                           const Tensor& bias, const ConvTransposeOptions& options) {
  check(weight.rank() == dims + 2, "{}: wants weight with {} dimensions, got {}", op, dims + 2,
        weight.shape());
  const int64_t out = weight.size(1) * options.groups;
  check_inputs(op, dims, x, weight, bias, options.groups, out);
  check(weight.size(0) == x.size(1), "{}: x {} has {} channels, but weight {} wants {}", op,
        x.shape(), x.size(1), weight.shape(), weight.size(0));
  const Shape kernel = spatial(weight);
  const ConvPlan plan{kernels::make_window(op, transposed_sizes(op, x, kernel, options), kernel,
                                           options.stride, options.padding, options.dilation),
                      options.groups};
  const Tensor y = input_of(op, plan, x, weight);
  if (!bias.defined()) return y;
  Shape channels = Shape::filled(dims + 1, 1);
  channels[0] = out;
  return y + reshape(bias, channels);
}

// ---- Rows of the registry -----------------------------------------------------------------------

using Convolution = Tensor (*)(const Tensor&, const Tensor&, const Tensor&, const ConvOptions&);
using Transposed = Tensor (*)(const Tensor&, const Tensor&, const Tensor&,
                              const ConvTransposeOptions&);

template <class Function, class Options>
OpSample conv_sample(const char* label, Function f, const Shape& x, const Shape& w, bool bias,
                     const Options& options, int64_t out) {
  return {label,
          {samples::normal(x), samples::normal(w, 1), bias ? samples::normal({out}, 2) : Tensor()},
          [=](const TensorList& in) { return TensorList{f(in[0], in[1], in[2], options)}; },
          {}};
}

OpSample sample(const char* label, Convolution f, const Shape& x, const Shape& w, bool bias,
                const ConvOptions& options) {
  return conv_sample(label, f, x, w, bias, options, w[0]);
}

OpSample sample(const char* label, Transposed f, const Shape& x, const Shape& w, bool bias,
                const ConvTransposeOptions& options) {
  return conv_sample(label, f, x, w, bias, options, w[1] * options.groups);
}

const char* const kConvFormula =
    "y[b, o, p] = bias[o] + Σ_{c, k} weight[o, c, k] x[b, c, p · stride + k · dilation − padding]";
const char* const kTransposedFormula = "the adjoint of convolution, plus bias";
const char* const kSource = "PyTorch's layout";

const RegisterOp conv1d_row{{
    .name = "conv1d",
    .formula = kConvFormula,
    .source = kSource,
    .samples =
        [] {
          return std::vector<OpSample>{
              sample("kernel 3", conv1d, {2, 2, 6}, {3, 2, 3}, true, {}),
              sample("stride, padding, dilation, groups", conv1d, {2, 4, 9}, {2, 2, 3}, false,
                     {.stride = {2}, .padding = {3}, .dilation = {2}, .groups = 2}),
              sample("depthwise", conv1d, {2, 3, 5}, {3, 1, 3}, true,
                     {.padding = {1}, .groups = 3}),
              sample("longer than a block", conv1d, {1, 1, 70}, {1, 1, 2}, true, {})};
        },
    .wrong_calls = {[] {
      conv1d(samples::normal({1, 2, 2, 2}), samples::normal({1, 2, 1}));
    }},
}};

const RegisterOp conv2d_row{{
    .name = "conv2d",
    .formula = kConvFormula,
    .source = kSource,
    .samples =
        [] {
          std::vector<OpSample> list = {
              sample("3 × 2", conv2d, {2, 2, 4, 3}, {3, 2, 3, 2}, true, {}),
              sample("stride, padding, dilation", conv2d, {1, 2, 5, 6}, {2, 2, 3, 2}, true,
                     {.stride = {2, 1}, .padding = {2, 1}, .dilation = {1, 2}}),
              sample("groups", conv2d, {2, 4, 3, 3}, {6, 2, 2, 2}, true, {.groups = 2}),
              sample("depthwise", conv2d, {2, 3, 4, 4}, {3, 1, 3, 3}, true,
                     {.padding = {1}, .groups = 3}),
              sample("depthwise with stride and two outputs each", conv2d, {2, 2, 5, 4},
                     {4, 1, 3, 2}, false, {.stride = {2}, .padding = {1}, .groups = 2}),
              sample("1 × 1", conv2d, {2, 3, 2, 3}, {2, 3, 1, 1}, true, {}),
              sample("1 × 1 in groups", conv2d, {2, 4, 2, 2}, {4, 2, 1, 1}, false, {.groups = 2}),
              sample("1 × 1 with stride", conv2d, {1, 2, 3, 3}, {2, 2, 1, 1}, false,
                     {.stride = {2}}),
              sample("patches", conv2d, {2, 2, 4, 6}, {3, 2, 2, 3}, true, {.stride = {2, 3}}),
              sample("padding wider than the input", conv2d, {1, 1, 1, 1}, {1, 1, 3, 3}, false,
                     {.padding = {2}}),
              sample("no samples", conv2d, {0, 2, 3, 3}, {2, 2, 2, 2}, true, {}),
              sample("no channels", conv2d, {2, 0, 3, 3}, {2, 0, 2, 2}, true, {}),
              sample("many samples", conv2d, {19, 1, 2, 2}, {1, 1, 2, 2}, true, {})};
          list.push_back({"strided",
                          {samples::strided(samples::normal({2, 2, 3, 3})),
                           samples::strided(samples::normal({2, 2, 2, 2}, 1))},
                          [](const TensorList& x) { return TensorList{conv2d(x[0], x[1])}; },
                          {}});
          return list;
        },
    .wrong_calls = {
        [] {
          conv2d(samples::normal({2, 3, 4}), samples::normal({2, 3, 1, 1}));
        },
        [] {
          conv2d(samples::normal({1, 3, 4, 4}), samples::normal({2, 2, 1, 1}));
        },
        [] {
          conv2d(samples::normal({1, 3, 2, 2}), samples::normal({2, 3, 3, 3}));
        },
        [] {
          conv2d(samples::normal({1, 3, 4, 4}), samples::normal({2, 3, 1, 1}),
                 samples::normal({3}));
        },
        [] {
          conv2d(samples::normal({1, 3, 4, 4}), samples::normal({2, 3, 1, 1}), {},
                 {.padding = {-1}});
        },
        [] {
          conv2d(samples::normal({1, 3, 4, 4}), samples::normal({2, 1, 1, 1}), {}, {.groups = 2});
        },
        [] {
          conv2d(samples::normal({1, 3, 4, 4}), samples::normal({2, 3, 1, 1}), {},
                 {.stride = {1, 1, 1}});
        },
        [] {
          conv2d(samples::normal({1, 1, 2, 2}), samples::normal({1, 1, 1, 1}).to(DType::f32));
        }},
}};

const RegisterOp conv3d_row{{
    .name = "conv3d",
    .formula = kConvFormula,
    .source = kSource,
    .samples =
        [] {
          return std::vector<OpSample>{
              sample("2 × 2 × 2", conv3d, {1, 2, 3, 3, 2}, {2, 2, 2, 2, 2}, true, {}),
              sample("stride and padding", conv3d, {1, 1, 3, 4, 3}, {1, 1, 3, 2, 2}, false,
                     {.stride = {2, 1, 2}, .padding = {1, 0, 1}})};
        },
    .wrong_calls = {[] {
      conv3d(samples::normal({1, 2, 2, 2}), samples::normal({1, 2, 1, 1}));
    }},
}};

const RegisterOp conv_transpose1d_row{{
    .name = "conv_transpose1d",
    .formula = kTransposedFormula,
    .source = kSource,
    .samples =
        [] {
          return std::vector<OpSample>{
              sample("stride 2", conv_transpose1d, {2, 2, 4}, {2, 3, 3}, true,
                     {.stride = {2}, .padding = {1}, .output_padding = {1}}),
              sample("groups", conv_transpose1d, {2, 4, 3}, {4, 1, 2}, false, {.groups = 2})};
        },
    .wrong_calls = {[] {
      conv_transpose1d(samples::normal({1, 2, 3}), samples::normal({3, 2, 1}));
    }},
}};

const RegisterOp conv_transpose2d_row{{
    .name = "conv_transpose2d",
    .formula = kTransposedFormula,
    .source = kSource,
    .samples =
        [] {
          return std::vector<OpSample>{
              sample("2 × 3", conv_transpose2d, {2, 2, 2, 3}, {2, 3, 2, 3}, true, {}),
              sample("stride, padding, output padding, dilation", conv_transpose2d, {1, 2, 3, 2},
                     {2, 1, 3, 2}, true,
                     {.stride = {2, 3},
                      .padding = {1, 0},
                      .output_padding = {1, 2},
                      .dilation = {1, 2}}),
              sample("depthwise", conv_transpose2d, {2, 2, 2, 2}, {2, 1, 2, 2}, true,
                     {.stride = {2}, .groups = 2}),
              sample("1 × 1", conv_transpose2d, {2, 3, 2, 2}, {3, 2, 1, 1}, true, {}),
              sample("no samples", conv_transpose2d, {0, 2, 2, 2}, {2, 3, 2, 2}, true, {})};
        },
    .wrong_calls = {[] {
                      conv_transpose2d(samples::normal({1, 2, 3, 3}), samples::normal({2, 2, 2, 2}),
                                       {}, {.output_padding = {1}});
                    },
                    [] {
                      conv_transpose2d(samples::normal({1, 2, 1, 1}), samples::normal({2, 2, 1, 1}),
                                       {}, {.padding = {1}});
                    },
                    [] {
                      conv_transpose2d(samples::normal({1, 2, 3, 3}), samples::normal({2, 2, 2, 2}),
                                       samples::normal({3}));
                    },
                    [] {
                      conv_transpose2d(samples::normal({2, 3}), samples::normal({2, 2}));
                    }},
}};

const RegisterOp conv_transpose3d_row{{
    .name = "conv_transpose3d",
    .formula = kTransposedFormula,
    .source = kSource,
    .samples =
        [] {
          return std::vector<OpSample>{sample("2 × 2 × 2", conv_transpose3d, {1, 2, 2, 1, 2},
                                              {2, 1, 2, 2, 2}, true, {.stride = {2, 1, 2}})};
        },
    .wrong_calls = {[] {
      conv_transpose3d(samples::normal({1, 2, 2, 2}), samples::normal({2, 2, 1, 1}));
    }},
}};

}  // namespace

Tensor conv1d(const Tensor& x, const Tensor& weight, const Tensor& bias,
              const ConvOptions& options) {
  return convolve("conv1d", 1, x, weight, bias, options);
}
Tensor conv2d(const Tensor& x, const Tensor& weight, const Tensor& bias,
              const ConvOptions& options) {
  return convolve("conv2d", 2, x, weight, bias, options);
}
Tensor conv3d(const Tensor& x, const Tensor& weight, const Tensor& bias,
              const ConvOptions& options) {
  return convolve("conv3d", 3, x, weight, bias, options);
}

Tensor conv_transpose1d(const Tensor& x, const Tensor& weight, const Tensor& bias,
                        const ConvTransposeOptions& options) {
  return convolve_transposed("conv_transpose1d", 1, x, weight, bias, options);
}
Tensor conv_transpose2d(const Tensor& x, const Tensor& weight, const Tensor& bias,
                        const ConvTransposeOptions& options) {
  return convolve_transposed("conv_transpose2d", 2, x, weight, bias, options);
}
Tensor conv_transpose3d(const Tensor& x, const Tensor& weight, const Tensor& bias,
                        const ConvTransposeOptions& options) {
  return convolve_transposed("conv_transpose3d", 3, x, weight, bias, options);
}

}  // namespace tessera
