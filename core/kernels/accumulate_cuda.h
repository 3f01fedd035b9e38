// Sums where the tensors lie on a CUDA device.
#pragma once

#include "tessera/core/tensor.h"

namespace tessera::kernels {

void add_in_place_cuda(const Tensor& sum, const Tensor& x);

// y = Σ x over `reduced` (sorted dimensions of x), y dense with the other dimensions. Floats add in
// their own type, halves in f32, integers in i64; y has that type, or the one x has. Every
// dimension's strides are followed as they are; the order of additions depends on them alone.
void sum_cuda(const Tensor& y, const Tensor& x, const Shape& reduced);

}  // namespace tessera::kernels
