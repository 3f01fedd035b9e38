// Reductions of the rows of a matrix x (R, N) of any strides on a CUDA device. Results
// have its dtype; best rows and variances are taken of halves too, in f32 and f64.
#pragma once

#include "tessera/core/tensor.h"

namespace tessera::detail {

// Index of the first best entry of every row, i64; NaN is best.
Tensor best_rows_cuda(const Tensor& x, bool largest);

// Σ (x − mean)² / divisor, or its root; and the gradient with respect to x.
Tensor variance_rows_cuda(const Tensor& x, double divisor, bool root);
Tensor variance_backward_cuda(const Tensor& x, const Tensor& grad, double divisor, bool root);

Tensor logsumexp_rows_cuda(const Tensor& x);
Tensor logsumexp_backward_cuda(const Tensor& x, const Tensor& y, const Tensor& grad);

Tensor norm_rows_cuda(const Tensor& x);  // √Σ x²

}  // namespace tessera::detail
