// Scans of the rows of dense matrices (R, N) on a CUDA device. Sums and products of floats are
// carried in f64, of integers in i64; results have the dtype of x, any one.
#pragma once

#include "tessera/core/tensor.h"

namespace tessera::detail {

Tensor cumsum_rows_cuda(const Tensor& x, bool exclusive, bool reverse);

Tensor cumprod_rows_cuda(const Tensor& x);
Tensor cumprod_backward_cuda(const Tensor& x, const Tensor& y, const Tensor& grad);

Tensor logcumsumexp_rows_cuda(const Tensor& x);
Tensor logcumsumexp_backward_cuda(const Tensor& x, const Tensor& y, const Tensor& grad);

Tensor running_best_cuda(const Tensor& x);  // where the running maximum stands, i64

}  // namespace tessera::detail
