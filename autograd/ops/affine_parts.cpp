#include "tessera/autograd/ops/affine_parts.h"

#include "tessera/core/create.h"
#include "tessera/core/kernels/accumulate.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/kernels/gemm.h"
#include "tessera/core/kernels/gemm_cuda.h"
#include "tessera/core/view.h"

namespace tessera::detail {

Tensor as_rows(const Tensor& x, int64_t width) {
  int64_t rows = 1;
  for (int64_t d = 0; d + 1 < x.rank(); ++d) rows *= x.shape()[d];
  return views::reshape(x, {rows, width});
}

void product_with_bias(const Tensor& y, const Tensor& x, const Tensor& weight, const Tensor& bias) {
  const Tensor w = views::transpose(weight, 0, 1);
  if (!bias.defined()) return kernels::gemm(y, x, w);
  if constexpr (kCuda) {
    const kernels::Epilogue fused{.bias = kernels::contiguous(bias)};
    if (y.device().is_cuda() && kernels::gemm_fuses(y, x, w, 0, fused)) {
      return kernels::gemm_cuda(y, x, w, 1, 0, fused);
    }
  }
  // The bias is what the product is added to.
  kernels::copy(y, views::expand(bias, y.shape()));
  kernels::gemm(y, x, w, 1, 1);
}

void add_gemm(Backward& b, int input, const Shape& shape, const Tensor& p, const Tensor& q) {
  const Tensor sum = b.accumulator(input);
  const Tensor into = sum.defined() ? sum : empty(shape, {p.dtype(), p.device()});
  kernels::gemm(views::reshape(into, {p.size(0), q.size(1)}), p, q, 1, sum.defined() ? 1 : 0);
  if (!sum.defined()) b.add(input, into);
}

void add_weight_gradients(Backward& b, int weight, std::optional<int> bias, const Tensor& g,
                          const Tensor& x) {
  if (b.needs(weight)) {
    add_gemm(b, weight, {g.size(1), x.size(1)}, views::transpose(g, 0, 1), x);
  }
  if (bias && b.needs(*bias)) b.add(*bias, kernels::sum(g, {0}, false));
}

}  // namespace tessera::detail
