#include "tessera/autograd/ops/matmul.h"

#include "tessera/autograd/op.h"
#include "tessera/autograd/ops/affine_parts.h"
#include "tessera/autograd/ops/arguments.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/registry.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/gemm.h"
#include "tessera/core/view.h"

namespace tessera {
namespace {

Shape batch_of(const Tensor& x) {
  Shape batch = x.shape();
  batch.pop_back();
  batch.pop_back();
  return batch;
}

Shape product_shape(const Tensor& a, const Tensor& b) {
  Shape shape = broadcast_shapes(batch_of(a), batch_of(b), "matmul");
  shape.push_back(a.size(-2));
  shape.push_back(b.size(-1));
  return shape;
}

// Gradient of `input` (of shape `shape`) += x y, straight into the accumulated one where it can be.
void add_product(Backward& back, int input, const Shape& shape, const Tensor& x, const Tensor& y) {
  if (!back.needs(input)) return;
  const Tensor sum = back.accumulator(input);
  // One of no elements may have any strides.
  const bool rows = sum.defined() && (sum.size(-1) <= 1 || sum.stride(-1) == 1);
  if (rows && product_shape(x, y) == shape) {
    kernels::gemm(sum, x, y, 1, 1);
  } else {
    back.add(input, sum_to(matmul(x, y), shape));
  }
}

// gA = g Bᵀ, gB = Aᵀ g, summed over broadcast batch dimensions.
struct MatMul {
  static constexpr std::string_view name = "matmul";
  Shape a_shape;
  Shape b_shape;

  Tensor forward(Forward& f, const Tensor& a, const Tensor& b) const {
    f.save(a, b);
    const Tensor c = empty(product_shape(a, b), {a.dtype(), a.device()});
    kernels::gemm(c, a, b);
    return c;
  }
  void backward(Backward& back) const {
    const Tensor& g = back.grad();
    add_product(back, 0, a_shape, g, transpose(back.saved(1), -1, -2));
    add_product(back, 1, b_shape, transpose(back.saved(0), -1, -2), g);
  }
};

// y = x Wᵀ + b, gx = g W, gW = gᵀ x, gb = Σ g over rows.
struct Linear {
  static constexpr std::string_view name = "linear";

  // The bias is what the product is added to: one pass over y.
  Tensor forward(Forward&, const Tensor& x, const Tensor& weight, const Tensor& bias) const {
    Shape shape = x.shape();
    shape.back() = weight.size(0);
    const Tensor y = empty(shape, {x.dtype(), x.device()});
    detail::product_with_bias(detail::as_rows(y, weight.size(0)),
                              detail::as_rows(x, weight.size(1)), weight, bias);
    return y;
  }

  void backward(Backward& b) const {
    const Tensor x = b.input(0);
    const Tensor weight = b.input(1);
    const Tensor g = detail::as_rows(b.grad(), weight.size(0));
    const Tensor rows = detail::as_rows(x, weight.size(1));
    if (b.needs(0)) detail::add_gemm(b, 0, x.shape(), g, weight);
    detail::add_weight_gradients(b, 1, 2, g, rows);
  }

  Tensor definition(const TensorList& in) const {
    const Tensor y = matmul(in[0], transpose(in[1], 0, 1));
    return in[2].defined() ? y + in[2] : y;
  }
};

OpSample sample(std::string label, TensorList inputs) {
  return {std::move(label),
          std::move(inputs),
          [](const TensorList& x) { return TensorList{matmul(x[0], x[1])}; },
          {}};
}

std::vector<OpSample> matmul_samples() {
  const std::vector<std::pair<Shape, Shape>> shapes = {
      {{3, 4}, {4, 2}},       {{1, 1}, {1, 1}},    {{4}, {4}},
      {{4}, {4, 3}},          {{3, 4}, {4}},       {{2, 3, 4}, {4, 2}},
      {{3, 4}, {2, 4, 2}},    {{2, 3, 4}, {4}},    {{2, 1, 3, 4}, {3, 4, 2}},
      {{1, 3, 2}, {4, 2, 1}}, {{3, 0}, {0, 2}},    {{0, 3}, {3, 2}},
      {{0, 2, 3}, {3, 2}},    {{2, 3, 1}, {1, 4}}, {{3}, {2, 3, 2}}};
  std::vector<OpSample> list;
  uint64_t salt = 0;
  for (const auto& [a, b] : shapes) {
    salt += 2;
    list.push_back(sample(fmt::format("{} x {}", a, b),
                          {samples::normal(a, salt), samples::normal(b, salt + 1)}));
  }
  list.push_back(sample("strided", {samples::strided(samples::normal({3, 4})),
                                    samples::strided(samples::normal({4}, 1))}));
  list.push_back(sample("strided batches", {samples::strided(samples::normal({2, 3, 4})),
                                            samples::strided(samples::normal({2, 4, 2}, 1))}));
  list.push_back({"a matrix times itself, used again",
                  {samples::normal({3, 3})},
                  [](const TensorList& x) {
                    return TensorList{matmul(x[0], x[0]) + x[0], matmul(x[0], x[0])};
                  },
                  {}});
  return list;
}

std::vector<OpSample> linear_samples() {
  const TensorFunction run = [](const TensorList& x) {
    return TensorList{linear(x[0], x[1], x.size() > 2 ? x[2] : Tensor())};
  };
  const TensorFunction definition = [](const TensorList& x) {
    const Tensor y = matmul(x[0], transpose(x[1], 0, 1));
    return TensorList{x.size() > 2 ? y + x[2] : y};
  };
  const Tensor weight = samples::normal({4, 3}, 1);
  const Tensor bias = samples::normal({4}, 2);
  std::vector<OpSample> list;
  for (const Shape& shape : {Shape{3}, Shape{5, 3}, Shape{2, 2, 3}, Shape{0, 3}, Shape{2, 0, 3}}) {
    list.push_back(
        {fmt::format("{}", shape), {samples::normal(shape), weight, bias}, run, definition});
  }
  list.push_back({"no bias", {samples::normal({2, 3}), weight}, run, definition});
  list.push_back({"one in, one out",
                  {samples::normal({1, 1}), samples::normal({1, 1}, 1), samples::normal({1}, 2)},
                  run,
                  definition});
  list.push_back({"strided",
                  {samples::strided(samples::normal({2, 5, 3})), samples::strided(weight),
                   samples::strided(bias)},
                  run,
                  definition});
  list.push_back({"twice with one weight",
                  {samples::normal({2, 3}), samples::normal({3, 3}, 1), samples::normal({3}, 2)},
                  [](const TensorList& x) {
                    return TensorList{linear(linear(x[0], x[1], x[2]), x[1], x[2]) + x[0]};
                  },
                  {}});
  return list;
}

const RegisterOp matmul_row{{
    .name = "matmul",
    .formula = "C = A B",
    .source = "NumPy's rules for matmul",
    .samples = matmul_samples,
    .wrong_calls = {[] {
                      matmul(samples::normal({8, 64}), samples::normal({32, 16}));
                    },
                    [] { matmul(samples::normal({}), samples::normal({1})); },
                    [] {
                      matmul(samples::normal({2, 3, 4}), samples::normal({3, 4, 2}));
                    },
                    [] { matmul(samples::integers({2}, 0, 3), samples::integers({2}, 0, 3)); }},
}};

const RegisterOp linear_row{{
    .name = "linear",
    .formula = "y = x Wᵀ + b",
    .source = "",
    .samples = linear_samples,
    .wrong_calls = {
        [] {
          linear(samples::normal({2, 3}), samples::normal({4, 2}));
        },
        [] {
          linear(samples::normal({}), samples::normal({4, 1}));
        },
        [] { linear(samples::normal({3}), samples::normal({3})); },
        [] {
          linear(samples::normal({2, 3}), samples::normal({4, 3}), samples::normal({3}));
        },
        [] {
          linear(samples::normal({3}).to(DType::bf16), samples::normal({4, 3}).to(DType::bf16));
        }},
}};

}  // namespace

Tensor matmul(const Tensor& a, const Tensor& b) {
  check(a.rank() >= 1 && b.rank() >= 1, "matmul: wants at least one dimension, got {} x {}",
        a.shape(), b.shape());
  if (a.rank() == 1) return squeeze(matmul(unsqueeze(a, 0), b), b.rank() == 1 ? 0 : -2);
  if (b.rank() == 1) return squeeze(matmul(a, unsqueeze(b, 1)), -1);
  check(a.size(-1) == b.size(-2), "matmul: inner sizes differ: {} x {}", a.shape(), b.shape());
  const auto [x, y] = detail::promoted("matmul", a, b);
  if (y.rank() == 2 && x.rank() > 2) {  // one product with more rows
    Shape shape = x.shape();
    shape.back() = y.size(1);
    return reshape(matmul(flatten(x, 0, -2), y), shape);
  }
  product_shape(x, y);  // the batch dimensions fit
  return apply(MatMul{x.shape(), y.shape()}, x, y);
}

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  check(x.rank() >= 1 && weight.rank() == 2 && x.size(-1) == weight.size(1),
        "linear: an input (…, in) and a weight (out, in) were expected, got {} and {}", x.shape(),
        weight.shape());
  check(!bias.defined() || bias.shape() == Shape{weight.size(0)},
        "linear: the bias of a weight {} must have shape ({}), got {}", weight.shape(),
        weight.size(0), bias.defined() ? bias.shape() : Shape());
  const auto [in, w] = detail::promoted("linear", x, weight);
  return apply(Linear{}, in, w, bias.defined() ? bias.to(in.dtype()) : bias);
}

}  // namespace tessera
