// Sums over dimensions, and the broadcast that is their adjoint.
#pragma once

#include "tessera/core/tensor.h"

namespace tessera {

// y = Σ x over `dims` (empty: all), kept with size 1 when keep_dims. Differentiable twice.
Tensor sum(const Tensor& x, const Shape& dims = {}, bool keep_dims = false);

// Sums the dimensions along which `shape` would broadcast to x's shape. Differentiable twice.
Tensor sum_to(const Tensor& x, const Shape& shape);

// A view of x broadcast to `shape` (NumPy's rule; −1 keeps a size). Differentiable twice.
Tensor expand(const Tensor& x, const Shape& shape);

}  // namespace tessera
