// The kernel of triangle.cpp on CUDA.
#pragma once

#include "tessera/core/tensor.h"

namespace tessera {

// y = x, both dense, with 0 beyond the diagonal.
void triangle_cuda(const Tensor& y, const Tensor& x, bool lower, int64_t diagonal);

}  // namespace tessera
