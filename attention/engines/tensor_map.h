// Tensor maps: how Hopper's copy engine finds boxes of a (B, H, N, D) tensor. Only .cu files
// include this.
#pragma once

#include <cuda.h>

#include <string_view>

#include "tessera/core/tensor.h"

namespace tessera::cuda {

// Whether x can be read and written by boxes: bf16 or f16, not empty, dense rows, 16-byte aligned
// with strides of whole 16 bytes.
bool fits_tensor_map(const Tensor& x);

// The map of x by boxes of 64 columns and `rows` (≤ 256) rows of one head; coordinates are (column,
// row, head, batch). In shared memory a box is `rows` rows of 128 bytes in the order of hopper.h.
// Pass it to a kernel by value as __grid_constant__; `op` begins the error.
CUtensorMap tensor_map(std::string_view op, const Tensor& x, int rows);

}  // namespace tessera::cuda
