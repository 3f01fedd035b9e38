// The CUDA kernels of grouped_matmul.
#pragma once

#include "tessera/core/tensor.h"

namespace tessera {

// y = x w[g] + bias[g] by rows; w may be a transposed view, x and y are dense. Rows of no group
// become 0. With `accumulate` the product is added to y, and rows of no group stay.
void grouped_product_cuda(const Tensor& y, const Tensor& x, const Tensor& w, const Tensor& offsets,
                          const Tensor& bias, bool accumulate);
// gw[g] += x_gᵀ g_g over the rows of group g; all dense.
void grouped_weight_gradient_cuda(const Tensor& gw, const Tensor& x, const Tensor& g,
                                  const Tensor& offsets);
// gb[g] += Σ g over the rows of group g.
void grouped_bias_gradient_cuda(const Tensor& gb, const Tensor& g, const Tensor& offsets);

}  // namespace tessera
