// Reading and writing by index. Indices are integers in [0, size); negative ones are errors that
// name the value and its position. All are deterministic for any number of threads and
// differentiable any number of times in their floating inputs.
#pragma once

#include "tessera/core/tensor.h"

namespace tessera {

// y[…, i, …] = x[…, ids[i], …] along dim, ids (N).
Tensor index_select(const Tensor& x, int64_t dim, const Tensor& ids);

// y = x, then y[…, ids[i], …] += src[…, i, …] for i = 0, 1, …; src has x's shape with N along dim.
Tensor index_add(const Tensor& x, int64_t dim, const Tensor& ids, const Tensor& src);

// y[…, k, …] = x[…, index[…, k, …], …] along dim. index has x's rank and at most its size in the
// other dimensions; y has index's shape.
Tensor gather(const Tensor& x, int64_t dim, const Tensor& index);

// y = x, then y[…, index[…, k, …], …] += src[…, k, …] (or = src for scatter: the last of equal
// indices stays, and it alone receives the gradient). src has index's shape.
Tensor scatter_add(const Tensor& x, int64_t dim, const Tensor& index, const Tensor& src);
Tensor scatter(const Tensor& x, int64_t dim, const Tensor& index, const Tensor& src);

}  // namespace tessera
