// copy() and fill() where a CUDA tensor takes part.
#pragma once

#include "tessera/core/tensor.h"

namespace tessera::kernels {

void copy_cuda(const Tensor& dst, const Tensor& src);  // one of them, or both, on a device
void fill_cuda(const Tensor& x, double value);
// start + i · step, in any dtype.
void arange_cuda(const Tensor& x, double start, double step);

}  // namespace tessera::kernels
