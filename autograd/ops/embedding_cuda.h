// Rows of a table on a device.
#pragma once

#include "tessera/core/tensor.h"

namespace tessera {

// (N, d): row i is that of ids[i]; table and ids dense. An id out of range stops the program.
Tensor embedding_cuda(const Tensor& table, const Tensor& ids);
// sum[ids[i], :] += g[i, :], all dense; the rows of an id are added in the order of their
// positions, in groups that depend on the ids alone.
void embedding_backward_cuda(const Tensor& sum, const Tensor& ids, const Tensor& g);

}  // namespace tessera
