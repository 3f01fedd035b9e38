// Triangles of matrices.
#pragma once

#include "tessera/core/tensor.h"

namespace tessera {

// The lower (upper) triangle of the last two dimensions, 0 elsewhere: entries with column − row ≤
// (≥) diagonal stay. Any dtype. Throws below rank 2. Differentiable any number of times.
Tensor tril(const Tensor& x, int64_t diagonal = 0);
Tensor triu(const Tensor& x, int64_t diagonal = 0);

}  // namespace tessera
