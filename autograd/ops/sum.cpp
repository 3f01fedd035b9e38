#include "tessera/autograd/ops/sum.h"

#include "tessera/autograd/op.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/registry.h"
#include "tessera/core/kernels/accumulate.h"
#include "tessera/core/view.h"

namespace tessera {
namespace {

struct Expand {
  static constexpr std::string_view name = "expand";
  Shape from;
  Shape to;
  Tensor forward(Forward&, const Tensor& x) const { return views::expand(x, to); }
  void backward(Backward& b) const { b.add(0, sum_to(b.grad(), from)); }
};

struct SumTo {
  static constexpr std::string_view name = "sum_to";
  Shape from;
  Shape to;
  Tensor forward(Forward&, const Tensor& x) const { return kernels::sum_to(x, to); }
  void backward(Backward& b) const { b.add(0, expand(b.grad(), from)); }
};

struct Sum {
  static constexpr std::string_view name = "sum";
  Shape from;
  Shape dims;
  bool keep_dims;

  Tensor forward(Forward&, const Tensor& x) const { return kernels::sum(x, dims, keep_dims); }
  void backward(Backward& b) const {
    Shape with_ones = from;
    for (int64_t d : dims) with_ones[d] = 1;
    b.add(0, expand(reshape(b.grad(), with_ones), from));
  }
};

std::vector<OpSample> sum_samples() {
  std::vector<OpSample> list = samples::unary([](const Tensor& x) { return sum(x); });
  const Tensor x = samples::normal({2, 3, 4});
  for (const Shape& dims : {Shape{0}, Shape{1}, Shape{-1}, Shape{0, 2}, Shape{0, 1}}) {
    list.push_back({fmt::format("(2, 3, 4) over {}", dims),
                    {x},
                    [dims](const TensorList& in) {
                      return TensorList{sum(in[0], dims), sum(in[0], dims, true)};
                    },
                    {}});
  }
  return list;
}

const RegisterOp sum_row{{
    .name = "sum",
    .formula = "y = Σ x over dims",
    .source = "",
    .samples = sum_samples,
    .wrong_calls = {[] { sum(samples::normal({2}), {1}); },
                    [] {
                      sum(samples::normal({2}), {0, 0});
                    }},
}};

const RegisterOp expand_row{{
    .name = "expand",
    .formula = "y[…, i, …] = x[…, 0, …]",
    .source = "NumPy's broadcasting",
    .samples =
        [] {
          return std::vector<OpSample>{{"(3, 1) to (2, 3, 4)",
                                        {samples::normal({3, 1})},
                                        [](const TensorList& x) {
                                          return TensorList{expand(x[0], {2, -1, 4})};
                                        },
                                        {}}};
        },
    .wrong_calls = {[] { expand(samples::normal({2}), {3}); }},
}};

const RegisterOp sum_to_row{{
    .name = "sum_to",
    .formula = "the adjoint of expand",
    .source = "",
    .samples =
        [] {
          return std::vector<OpSample>{{"(2, 3, 4) to (3, 1)",
                                        {samples::normal({2, 3, 4})},
                                        [](const TensorList& x) {
                                          return TensorList{sum_to(x[0], {3, 1})};
                                        },
                                        {}}};
        },
    .wrong_calls = {[] { sum_to(samples::normal({2}), {3}); }},
}};

}  // namespace

Tensor sum(const Tensor& x, const Shape& dims, bool keep_dims) {
  if (x.rank() == 0) {
    normalize_dims(dims, 0, "sum");
    return x;
  }
  return apply(Sum{x.shape(), normalize_dims(dims, x.rank(), "sum"), keep_dims}, x);
}

Tensor sum_to(const Tensor& x, const Shape& shape) {
  if (x.shape() == shape) return x;
  check(broadcast_shapes(x.shape(), shape, "sum_to") == x.shape(),
        "sum_to: {} does not broadcast to {}", shape, x.shape());
  return apply(SumTo{x.shape(), shape}, x);
}

Tensor expand(const Tensor& x, const Shape& shape) {
  Shape to = shape;
  const int64_t lead = shape.rank() - x.rank();
  for (int64_t i = 0; i < shape.rank(); ++i) {
    if (to[i] == -1 && i >= lead) to[i] = x.shape()[i - lead];
  }
  if (to == x.shape()) return x;
  return apply(Expand{x.shape(), to}, x);
}

}  // namespace tessera
