// Rows of a table.
#pragma once

#include "tessera/core/tensor.h"

namespace tessera {

// y[…, :] = table[ids[…], :] for table (V, d) and integer ids of any shape: (…, d). Its gradient
// adds the rows of each id in the order of their positions, the same bits for any number of
// threads. Throws on an id outside [0, V), naming it and its position; on CUDA the kernel prints it
// and stops the program. Differentiable any number of times.
Tensor embedding(const Tensor& table, const Tensor& ids);

}  // namespace tessera
