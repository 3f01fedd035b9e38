// Conversion of the element type.
#pragma once

#include "tessera/core/tensor.h"

namespace tessera {

// The same values as `dtype`; x itself when nothing changes. Differentiable (any number of times)
// between floating types.
Tensor cast(const Tensor& x, DType dtype);

}  // namespace tessera
