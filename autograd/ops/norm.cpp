#include "tessera/autograd/ops/norm.h"

#include "tessera/autograd/ops/norm_parts.h"
#include "tessera/autograd/ops/norm_rows.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/core/view.h"

namespace tessera {
namespace {

using detail::check_parameter;
using detail::fused_sample;
using detail::normalized;
using detail::NormRows;

// A result for the gradient of a parameter, as one row; undefined when nobody wants it.
Tensor parameter_grad(bool wanted, const Tensor& parameter) {
  if (!wanted) return {};
  return empty({parameter.numel()}, {parameter.dtype(), parameter.device()});
}

void add_parameter_grad(Backward& b, int input, const Tensor& grad, const Tensor& parameter) {
  if (grad.defined()) b.add(input, views::reshape(grad, parameter.shape()));
}

// The norm of x's rows, of plain ops.
Tensor plain_norm(const NormRows& rows, const Tensor& x, const Tensor& weight, const Tensor& bias) {
  Tensor y = normalized(reshape(x, {rows.rows(x), rows.size}), rows.centered, rows.eps);
  if (weight.defined()) y = y * reshape(weight, {rows.size});
  if (bias.defined()) y = y + reshape(bias, {rows.size});
  return reshape(y, x.shape()).to(x.dtype());
}

struct RowNorm {
  std::string_view name;
  NormRows rows;

  RowNorm(std::string_view op, bool centered, int64_t size, double eps)
      : name(op), rows{op, centered, size, eps} {}

  Tensor forward(Forward& f, const Tensor& x, const Tensor& weight, const Tensor& bias) const {
    const Tensor y = empty_like(x);
    const Tensor stats = empty({rows.rows(x), 2}, {detail::statistics_dtype(x), x.device()});
    rows.forward({.x = kernels::contiguous(x),
                  .branch = {},
                  .weight = weight,
                  .bias = bias,
                  .sum = {},
                  .y = y,
                  .stats = stats});
    f.save(stats);
    return y;
  }

  void backward(Backward& b) const {
    const Tensor x = kernels::contiguous(b.input(0));
    const Tensor weight = b.input(1), bias = b.input(2);
    const Tensor gx = empty_like(x);
    const Tensor gw = parameter_grad(b.needs(1), weight);
    const Tensor gb = parameter_grad(b.needs(2), bias);
    rows.backward({.s = x,
                   .weight = weight,
                   .grad = kernels::contiguous(b.grad()),
                   .residual = {},
                   .stats = b.saved(0),
                   .gs = gx,
                   .gw = gw,
                   .gb = gb});
    b.add(0, gx);
    add_parameter_grad(b, 1, gw, weight);
    add_parameter_grad(b, 2, gb, bias);
  }

  Tensor definition(const TensorList& in) const { return plain_norm(rows, in[0], in[1], in[2]); }
};

// (x, branch) → (s = x + branch, y = norm(s)). Keeps s, which the next residual keeps as well, but
// neither x nor branch.
struct AddNorm {
  static constexpr std::string_view name = "add_norm";
  NormRows rows;

  TensorList forward(Forward& f, const Tensor& x, const Tensor& branch, const Tensor& weight,
                     const Tensor& bias) const {
    const Tensor s = empty_like(x), y = empty_like(x);
    const Tensor stats = empty({rows.rows(x), 2}, {detail::statistics_dtype(x), x.device()});
    rows.forward({.x = kernels::contiguous(x),
                  .branch = kernels::contiguous(branch),
                  .weight = weight,
                  .bias = bias,
                  .sum = s,
                  .y = y,
                  .stats = stats});
    f.save_output(s, 0);
    f.save(weight, bias, stats);
    return {s, y};
  }

  void backward(Backward& b) const {
    if (!b.has_grad(1)) return add_both(b, b.grad(0));
    if (b.recording()) return differentiable_backward(b);
    const Tensor s = b.saved(0), weight = b.saved(1), bias = b.saved(2);
    const Tensor gs = empty_like(s);
    const Tensor gw = parameter_grad(b.needs(2), weight);
    const Tensor gb = parameter_grad(b.needs(3), bias);
    rows.backward({.s = s,
                   .weight = weight,
                   .grad = kernels::contiguous(b.grad(1)),
                   .residual = b.has_grad(0) ? kernels::contiguous(b.grad(0)) : Tensor{},
                   .stats = b.saved(3),
                   .gs = gs,
                   .gw = gw,
                   .gb = gb});
    add_both(b, gs);
    add_parameter_grad(b, 2, gw, weight);
    add_parameter_grad(b, 3, gb, bias);
  }

 private:
  static void add_both(Backward& b, const Tensor& gs) {
    b.add(0, gs);
    b.add(1, gs);
  }

  Tensor mean_of(const Tensor& x) const {
    return sum(x, {-1}, true) * (1.0 / static_cast<double>(rows.size));
  }

  void differentiable_backward(Backward& b) const {
    const Tensor weight = b.saved(1), bias = b.saved(2);
    const Tensor s = reshape(b.saved(0), {rows.rows(b.saved(0)), rows.size});
    const Tensor g = reshape(b.grad(1), s.shape());
    const Tensor h = weight.defined() ? g * reshape(weight, {rows.size}) : g;
    const Tensor d = rows.centered ? s - mean_of(s) : s;
    const Tensor scale = detail::inverse_root(mean_of(d * d), rows.eps);
    const Tensor z = d * scale;
    Tensor gs = rows.centered ? h - mean_of(h) : h;
    gs = reshape(scale * (gs - z * mean_of(h * z)), b.saved(0).shape()).to(s.dtype());
    add_both(b, b.has_grad(0) ? gs + b.grad(0) : gs);
    if (b.needs(2)) b.add(2, parameter_gradient(g * z, weight));
    if (b.needs(3)) b.add(3, parameter_gradient(g, bias));
  }

  static Tensor parameter_gradient(const Tensor& per_row, const Tensor& parameter) {
    return reshape(sum(per_row, {0}), parameter.shape()).to(parameter.dtype());
  }
};

// The size of the rows that weight or bias normalise, all arguments checked.
int64_t row_size(std::string_view op, const Tensor& x, const Tensor& weight, const Tensor& bias) {
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
  return wanted.numel();
}

Tensor row_norm(std::string_view op, bool centered, const Tensor& x, const Tensor& weight,
                const Tensor& bias, double eps) {
  return apply(RowNorm(op, centered, row_size(op, x, weight, bias), eps), x, weight, bias);
}

AddNormResult add_norm(bool centered, const Tensor& x, const Tensor& branch, const Tensor& weight,
                       const Tensor& bias, double eps) {
  constexpr std::string_view kOp = AddNorm::name;
  const int64_t size = row_size(kOp, x, weight, bias);
  check(branch.shape() == x.shape() && branch.device() == x.device(),
        "add_norm: the branch is {} on {}, but x is {} on {}", branch.shape(), branch.device(),
        x.shape(), x.device());
  if (branch.dtype() != x.dtype()) {
    const Tensor s = x + branch;
    return {s, row_norm(kOp, centered, s, weight, bias, eps)};
  }
  const TensorList out = apply(AddNorm{{kOp, centered, size, eps}}, x, branch, weight, bias);
  return {out[0], out[1]};
}

std::vector<OpSample> row_samples(std::string_view op, bool centered) {
  const auto normal = [](const Shape& shape, uint64_t salt = 0) {
    return samples::normal(shape, salt);
  };
  const auto row = [op, centered](int64_t size) { return RowNorm(op, centered, size, 1e-3); };
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

OpSample add_norm_sample(const char* label, bool centered, int64_t size, const TensorList& inputs) {
  const NormRows rows{AddNorm::name, centered, size, 1e-3};
  return {label, inputs,
          [rows](const TensorList& x) { return apply(AddNorm{rows}, x[0], x[1], x[2], x[3]); },
          [rows](const TensorList& x) {
            const Tensor s = x[0] + x[1];
            return TensorList{s, plain_norm(rows, s, x[2], x[3])};
          }};
}

std::vector<OpSample> add_norm_samples() {
  const auto normal = [](const Shape& shape, uint64_t salt = 0) {
    return samples::normal(shape, salt);
  };
  const Tensor none, weight = normal({5}, 2), bias = normal({5}, 3);
  const Tensor x = normal({2, 3, 5}), branch = normal({2, 3, 5}, 1);
  const Tensor turned = samples::strided(normal({4, 5}));
  return {
      add_norm_sample("layer, weight and bias", true, 5, {x, branch, weight, bias}),
      add_norm_sample("layer, weight", true, 5, {x, branch, weight, none}),
      add_norm_sample("layer", true, 5, {x, branch, none, none}),
      add_norm_sample("rms, weight", false, 5, {x, branch, weight, none}),
      add_norm_sample("rms", false, 5, {x, branch, none, none}),
      add_norm_sample("strided", true, 5, {turned, normal({4, 5}, 1), weight, bias}),
      add_norm_sample("strided branch", false, 5, {normal({4, 5}, 1), turned, weight, none}),
      add_norm_sample("many rows", true, 5, {normal({37, 5}), normal({37, 5}, 1), weight, bias}),
      add_norm_sample("rows of one value", false, 1,
                      {normal({3, 1}), normal({3, 1}, 1), normal({1}, 2), none}),
      add_norm_sample("no rows", true, 5, {normal({0, 5}), normal({0, 5}), weight, bias})};
}

const RegisterOp add_norm_row{{
    .name = "add_norm",
    .formula = "s = x + branch, y = the layer or rms norm of s",
    .source = "",
    .samples = add_norm_samples,
    .wrong_calls = {
        [] {
          add_layer_norm(samples::normal({2, 3}), samples::normal({3}));
        },
        [] {
          add_rms_norm(samples::normal({2, 3}), samples::normal({2, 3}), samples::normal({2}));
        },
        [] {
          add_layer_norm(samples::integers({2, 3}, 0, 5), samples::integers({2, 3}, 0, 5));
        }},
}};

}  // namespace

AddNormResult add_layer_norm(const Tensor& x, const Tensor& branch, const Tensor& weight,
                             const Tensor& bias, double eps) {
  return add_norm(true, x, branch, weight, bias, eps);
}

AddNormResult add_rms_norm(const Tensor& x, const Tensor& branch, const Tensor& weight,
                           double eps) {
  return add_norm(false, x, branch, weight, {}, eps);
}

Tensor layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps) {
  return row_norm("layer_norm", true, x, weight, bias, eps);
}

Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps) {
  return row_norm("rms_norm", false, x, weight, {}, eps);
}

}  // namespace tessera
