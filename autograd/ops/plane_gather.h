// Reading and adding at flat positions of the planes of x (B, C, spatial…): what max pooling and
// grid sampling differentiate through.
#pragma once

#include "tessera/core/tensor.h"

namespace tessera {

// y[b, c, p] = x[b, c, index[b, c, p]], index i64 (B, C or 1, out…) into a flattened plane; −1
// gives 0. Throws for an index outside the plane (on CUDA the kernel stops the program).
// Differentiable any number of times.
Tensor plane_gather(const Tensor& x, const Tensor& index);

// The adjoint: adds y (B, C, out…) into zeros (B, C, size…) at index; −1 adds nowhere.
Tensor plane_scatter(const Tensor& y, const Tensor& index, const Shape& size);

}  // namespace tessera
