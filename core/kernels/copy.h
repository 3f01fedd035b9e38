// Copies and element-type conversion, without gradients.
#pragma once

#include "tessera/core/tensor.h"

namespace tessera::kernels {

// dst = src, both of the same shape, any strides, any dtypes.
void copy(const Tensor& dst, const Tensor& src);
Tensor contiguous(const Tensor& x);                // x itself when it already is
Tensor clone(const Tensor& x);                     // always a fresh dense copy
Tensor cast(const Tensor& x, DType dtype);         // x itself when the dtype is right
Tensor to_device(const Tensor& x, Device device);  // x itself when it is there

// Bytes copied by contiguous() since the start: a step of a well-written model adds nothing.
int64_t contiguous_bytes();

}  // namespace tessera::kernels
