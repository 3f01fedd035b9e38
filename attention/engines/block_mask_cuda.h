// Masks of blocks made on a CUDA device.
#pragma once

#include "tessera/attention/engines/block_bounds.h"

namespace tessera {

// map (B, H, Q, K) ← the kinds of the blocks where `active`, of the same shape and any strides, is
// not 0.
void classify_blocks_cuda(const Tensor& map, const Tensor& active, const BlockBounds& bounds);
// The blocks of every row of `map` (B, H, R, C), u8 of any strides, as lists.
void compact_blocks_cuda(const BlockLists& lists, const Tensor& map, const Tensor& overflow);
// Adds the entries that `bounds` lets of the blocks in `map`, `times` over, to the device's count.
void count_blocks_cuda(const Tensor& map, const BlockBounds& bounds, int64_t times);

}  // namespace tessera
