#include "tessera/autograd/ops/mlp.h"

#include "tessera/autograd/op.h"
#include "tessera/autograd/ops/activation.h"
#include "tessera/autograd/ops/affine_parts.h"
#include "tessera/autograd/ops/arguments.h"
#include "tessera/autograd/ops/matmul.h"
#include "tessera/autograd/registry.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/kernels/gemm.h"
#include "tessera/core/kernels/gemm_cuda.h"
#include "tessera/core/view.h"

namespace tessera {
namespace {

// u = x W₁ᵀ + b₁, h = gelu(u), y = h W₂ᵀ + b₂;
// gh = g W₂, gu = gh gelu'(u), gW₂ = gᵀ h, gb₂ = Σ g, gx = gu W₁, gW₁ = guᵀ x, gb₁ = Σ gu.
struct MlpOp {
  static constexpr std::string_view name = "mlp";

  Tensor forward(Forward& f, const Tensor& x, const Tensor& w1, const Tensor& b1, const Tensor& w2,
                 const Tensor& b2) const {
    const Tensor rows = detail::as_rows(x, w1.size(1));
    const Options like{x.dtype(), x.device()};
    const Tensor u = empty({rows.size(0), w1.size(0)}, like);
    const Tensor h = hidden(u, rows, w1, b1);
    Shape shape = x.shape();
    shape.back() = w2.size(0);
    const Tensor y = empty(shape, like);
    detail::product_with_bias(detail::as_rows(y, w2.size(0)), h, w2, b2);
    f.save(u, h);
    return y;
  }

  void backward(Backward& b) const {
    const Tensor x = b.input(0), w1 = b.input(1), w2 = b.input(3);
    const Tensor u = b.saved(0), h = b.saved(1);
    const Tensor rows = detail::as_rows(x, w1.size(1));
    const Tensor g = detail::as_rows(b.grad(), w2.size(0));
    detail::add_weight_gradients(b, 3, 4, g, h);
    if (!b.needs(0) && !b.needs(1) && !b.needs(2)) return;
    Tensor gu = empty(u.shape(), {u.dtype(), u.device()});
    gradient_of_hidden(gu, g, w2, u);
    if (b.needs(0)) detail::add_gemm(b, 0, x.shape(), gu, w1);
    detail::add_weight_gradients(b, 1, 2, gu, rows);
  }

  Tensor definition(const TensorList& in) const {
    return linear(gelu_tanh(linear(in[0], in[1], in[2])), in[3], in[4]);
  }

 private:
  // cuBLASLt's GELU is exact to some 1e-5: enough for halves alone.
  static bool may_fuse(const Tensor& u) { return u.device().is_cuda() && is_half(u.dtype()); }

  // Writes u and gives gelu(u).
  static Tensor hidden(const Tensor& u, const Tensor& x, const Tensor& w1, const Tensor& b1) {
    if constexpr (kCuda) {
      const Tensor h = empty(u.shape(), {u.dtype(), u.device()});
      const Tensor w = views::transpose(w1, 0, 1);
      const kernels::Epilogue fused{.bias = b1.defined() ? kernels::contiguous(b1) : b1,
                                    .gelu_input = u};
      if (may_fuse(u) && kernels::gemm_fuses(h, x, w, 0, fused)) {
        kernels::gemm_cuda(h, x, w, 1, 0, fused);
        return h;
      }
    }
    detail::product_with_bias(u, x, w1, b1);
    return gelu_tanh(u);
  }

  // gu = (g W₂) gelu'(u).
  static void gradient_of_hidden(Tensor& gu, const Tensor& g, const Tensor& w2, const Tensor& u) {
    if constexpr (kCuda) {
      const kernels::Epilogue fused{.gelu_at = u};
      if (may_fuse(u) && kernels::gemm_fuses(gu, g, w2, 0, fused)) {
        kernels::gemm_cuda(gu, g, w2, 1, 0, fused);
        return;
      }
    }
    const Tensor gh = empty(u.shape(), {u.dtype(), u.device()});
    kernels::gemm(gh, g, w2);
    gu = gelu_tanh_gradient(gh, u);
  }
};

std::vector<OpSample> mlp_samples() {
  const TensorFunction run = [](const TensorList& x) {
    return TensorList{x.size() == 5 ? mlp(x[0], x[1], x[2], x[3], x[4])
                                    : mlp(x[0], x[1], {}, x[2], {})};
  };
  const TensorFunction definition = [](const TensorList& x) {
    return TensorList{x.size() == 5 ? linear(gelu_tanh(linear(x[0], x[1], x[2])), x[3], x[4])
                                    : linear(gelu_tanh(linear(x[0], x[1])), x[2])};
  };
  const Tensor w1 = samples::normal({8, 3}, 1), b1 = samples::normal({8}, 2);
  const Tensor w2 = samples::normal({4, 8}, 3), b2 = samples::normal({4}, 4);
  std::vector<OpSample> list;
  for (const Shape& shape : {Shape{3}, Shape{5, 3}, Shape{2, 2, 3}, Shape{0, 3}}) {
    list.push_back(
        {fmt::format("{}", shape), {samples::normal(shape), w1, b1, w2, b2}, run, definition});
  }
  list.push_back({"no biases", {samples::normal({4, 3}), w1, w2}, run, definition});
  list.push_back({"strided",
                  {samples::strided(samples::normal({2, 5, 3})), samples::strided(w1), b1,
                   samples::strided(w2), b2},
                  run,
                  definition});
  return list;
}

const RegisterOp row{{
    .name = "mlp",
    .formula = "y = gelu_tanh(x W₁ᵀ + b₁) W₂ᵀ + b₂",
    .source = "Vaswani et al. 2017; Radford et al. 2019",
    .samples = mlp_samples,
    .wrong_calls = {
        [] {
          mlp(samples::normal({2, 3}), samples::normal({4, 2}), {}, samples::normal({2, 4}), {});
        },
        [] {
          mlp(samples::normal({2, 3}), samples::normal({4, 3}), {}, samples::normal({2, 5}), {});
        },
        [] {
          mlp(samples::normal({2, 3}), samples::normal({4, 3}), samples::normal({3}),
              samples::normal({2, 4}), {});
        }},
}};

}  // namespace

Tensor mlp(const Tensor& x, const Tensor& w1, const Tensor& b1, const Tensor& w2,
           const Tensor& b2) {
  check(w1.rank() == 2 && w2.rank() == 2 && x.rank() >= 1 && x.size(-1) == w1.size(1) &&
            w1.size(0) == w2.size(1),
        "mlp: an input (…, in), weights (hidden, in) and (out, hidden) were expected, got {}, {} "
        "and {}",
        x.shape(), w1.shape(), w2.shape());
  check((!b1.defined() || b1.shape() == Shape{w1.size(0)}) &&
            (!b2.defined() || b2.shape() == Shape{w2.size(0)}),
        "mlp: biases of shape ({}) and ({}) were expected, got {} and {}", w1.size(0), w2.size(0),
        b1.defined() ? b1.shape() : Shape(), b2.defined() ? b2.shape() : Shape());
  const auto [in, first] = detail::promoted("mlp", x, w1);
  const DType dtype = in.dtype();
  const auto fit = [dtype](const Tensor& t) { return t.defined() ? t.to(dtype) : t; };
  return apply(MlpOp{}, in, first, fit(b1), fit(w2), fit(b2));
}

}  // namespace tessera
