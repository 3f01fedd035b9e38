// What the norms of rows and of planes share.
#pragma once

#include "tessera/autograd/op.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/pointwise.h"
#include "tessera/autograd/registry.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"

namespace tessera::detail {

struct InverseRoot {  // 1 / √(x + ε)
  static constexpr std::string_view name = "inverse_root";
  double eps;
  template <class T>
  T operator()(T x) const {
    return math::rsqrt(x + constant<T>(eps));
  }
};

// What the definitions share: (rows, size) → (x − μ) / √(σ² + ε) along the last dimension.
inline Tensor normalized(const Tensor& x, bool centered, double eps) {
  const double share = 1.0 / static_cast<double>(x.size(-1));
  const Tensor d = centered ? x - sum(x, {-1}, true) * share : x;
  return d * pointwise(InverseRoot{eps}, sum(d * d, {-1}, true) * share);
}

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

// The parameters of a kernel; absent ones become what changes nothing.
inline Tensor dense_or(const Tensor& parameter, double value, int64_t size, DType dtype) {
  return parameter.defined() ? kernels::contiguous(parameter) : full({size}, value, {dtype, {}});
}

inline void check_parameter(std::string_view op, const char* what, const Tensor& x, const Tensor& p,
                            const Shape& shape) {
  if (!p.defined()) return;
  check(p.shape() == shape, "{}: {} has shape {}, but x {} wants {}", op, what, p.shape(),
        x.shape(), shape);
  check(p.dtype() == x.dtype() && p.device() == x.device(),
        "{}: {} is {} on {}, but x is {} on {}; convert one with to()", op, what, p.dtype(),
        p.device(), x.dtype(), x.device());
}

// A sample of an op on (x, weight, bias) that carries its definition.
template <class Op>
OpSample fused_sample(const char* label, const Op& op, const TensorList& inputs) {
  return {label, inputs,
          [op](const TensorList& x) { return TensorList{as_list(apply(op, x[0], x[1], x[2]))[0]}; },
          [op](const TensorList& x) { return as_list(op.definition(x)); }};
}

}  // namespace tessera::detail
