// What the ops made of affine maps share: linear, mlp.
#pragma once

#include <optional>

#include "tessera/autograd/op.h"

namespace tessera::detail {

// The leading dimensions as rows of a matrix.
Tensor as_rows(const Tensor& x, int64_t width);

// y = x Wᵀ + bias for matrices; bias may be undefined. One pass over y.
void product_with_bias(const Tensor& y, const Tensor& x, const Tensor& weight, const Tensor& bias);

// Gradient of `input` (of shape `shape`) += p q, straight into the accumulated one where it can be.
void add_gemm(Backward& b, int input, const Shape& shape, const Tensor& p, const Tensor& q);

// For y = x Wᵀ + bias and the gradient g of y: gW = gᵀ x and gb = Σ g over rows, each where
// wanted.
void add_weight_gradients(Backward& b, int weight, std::optional<int> bias, const Tensor& g,
                          const Tensor& x);

}  // namespace tessera::detail
