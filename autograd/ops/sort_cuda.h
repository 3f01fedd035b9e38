// Sorting the rows of a matrix on a CUDA device.
#pragma once

#include "tessera/core/tensor.h"

namespace tessera::detail {

// The indices that stand at first … first + count − 1 of every row of x (R, N) once it is sorted:
// i64 (R, count). Stable; NaN is greater than every number.
Tensor order_rows_cuda(const Tensor& x, int64_t first, int64_t count, bool descending);

}  // namespace tessera::detail
