// Sums without gradients: in-place addition and reduction over dimensions.
#pragma once

#include "tessera/core/tensor.h"

namespace tessera::kernels {

// sum += x; same shape, any strides; x may have another dtype.
void add_in_place(const Tensor& sum, const Tensor& x);

// Sum over `dims` (kept with size 1 when keep_dims), f32 in f64 accumulators along rows. The order
// of additions depends on the shape alone.
Tensor sum(const Tensor& x, const Shape& dims, bool keep_dims);

// Sums the dimensions along which `shape` was broadcast to x's shape; the adjoint of expand.
Tensor sum_to(const Tensor& x, const Shape& shape);

}  // namespace tessera::kernels
