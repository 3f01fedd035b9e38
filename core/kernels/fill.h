// Filling a tensor with one value.
#pragma once

#include "tessera/core/tensor.h"

namespace tessera::kernels {

void fill(const Tensor& x, double value);  // any strides, any dtype

}  // namespace tessera::kernels
