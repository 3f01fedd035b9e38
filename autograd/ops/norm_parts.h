// What the norms of rows and of planes share.
#pragma once

#include "tessera/autograd/op.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/registry.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"

namespace tessera::detail {

Tensor inverse_root(const Tensor& x, double eps);  // 1 / √(x + ε)

// What the definitions share: (rows, size) → (x − μ) / √(σ² + ε) along the last dimension.
Tensor normalized(const Tensor& x, bool centered, double eps);

// Σ f(i) for i < n: vector lanes of T within short pieces, double across them.
template <class T, class Fn>
double sum_of(int64_t n, const Fn& f) {
  constexpr int64_t kPiece = 256;
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += kPiece) {
    const int64_t end = std::min(n, begin + kPiece);
    T piece = 0;
#pragma omp simd reduction(+ : piece)
    for (int64_t i = begin; i < end; ++i) piece += f(i);
    total += static_cast<double>(piece);
  }
  return total;
}

// The parameters of a kernel for the CPU; absent ones become what changes nothing.
Tensor dense_or(const Tensor& parameter, double value, int64_t size, DType dtype);

// Whether `p` (when defined) has the shape wanted, x's device, and x's dtype, or f32 beside a half.
void check_parameter(std::string_view op, const char* what, const Tensor& x, const Tensor& p,
                     const Shape& shape);

// The dtype in which statistics of x are kept: f32 for the halves.
inline DType statistics_dtype(const Tensor& x) {
  return is_half(x.dtype()) ? DType::f32 : x.dtype();
}

// A sample of an op on (x, weight, bias) that carries its definition.
template <class Op>
OpSample fused_sample(const char* label, const Op& op, const TensorList& inputs) {
  return {label, inputs,
          [op](const TensorList& x) { return TensorList{as_list(apply(op, x[0], x[1], x[2]))[0]}; },
          [op](const TensorList& x) { return as_list(op.definition(x)); }};
}

}  // namespace tessera::detail
