// Products of matrices, on core/kernels/gemm.h: strided operands are used as they are.
#pragma once

#include "tessera/core/tensor.h"

namespace tessera {

// C = A B by NumPy's rules: (…, M, K) x (…, K, N) → (…, M, N) with broadcast batch dimensions; a
// vector (K) counts as a row on the left and as a column on the right and loses that dimension
// again. f32 or f64, mixed ones promoted. Throws when inner sizes differ. Differentiable any number
// of times.
Tensor matmul(const Tensor& a, const Tensor& b);

// y = x Wᵀ + bias for x (…, in), weight (out, in), bias (out) or undefined. Differentiable twice.
Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias = {});

}  // namespace tessera
