// Reading and writing by index, without gradients. Indices are i64 and already checked. Additions
// to one place happen in the order of the indices, so results do not depend on the thread count.
#pragma once

#include "tessera/core/tensor.h"

namespace tessera::kernels {

// y[…, i, …] = x[…, ids[i], …] along dim, ids dense (N).
Tensor take(const Tensor& x, int64_t dim, const Tensor& ids);
// y[…, ids[i], …] += src[…, i, …] along dim; y dense, ids dense (N).
void add_at(const Tensor& y, int64_t dim, const Tensor& ids, const Tensor& src);

// y[…, k, …] = x[…, index[…, k, …], …] along dim; y and index have one shape, which may be smaller
// than x's in the other dimensions.
Tensor gather(const Tensor& x, int64_t dim, const Tensor& index);
// The opposite: y[…, index[…, k, …], …] = src[…, k, …]; the last of equals stays.
void scatter(const Tensor& y, int64_t dim, const Tensor& index, const Tensor& src);
void scatter_add(const Tensor& y, int64_t dim, const Tensor& index, const Tensor& src);

}  // namespace tessera::kernels
