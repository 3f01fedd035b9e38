// Two affine maps with a GELU between them as one op: on CUDA the bias, the GELU and its derivative
// are computed inside the matrix products.
#pragma once

#include "tessera/core/tensor.h"

namespace tessera {

// y = gelu_tanh(x W₁ᵀ + b₁) W₂ᵀ + b₂ for x (…, in), W₁ (hidden, in), W₂ (out, hidden); the biases
// may be undefined. All of one floating dtype after promotion. Throws when sizes do not fit.
// Differentiable twice.
Tensor mlp(const Tensor& x, const Tensor& w1, const Tensor& b1, const Tensor& w2, const Tensor& b2);

}  // namespace tessera
