// Pictures of masks of blocks.
#pragma once

#include "tessera/attention/engines/block_mask.h"

namespace tessera {

// An image (3, height, width) as save_png (data/image.h) takes it: a panel per mask and head of its
// first batch, side by side in rows of `columns`; in a panel a square per block, query blocks
// downwards, key blocks to the right. Blue: full; orange: partial; near white: hidden. A block is
// one pixel, larger where a panel would be narrower than 160 pixels.
Tensor draw_masks(const std::vector<BlockMask>& masks, int64_t columns = 8);
Tensor draw_mask(const BlockMask& mask, int64_t columns = 8);

}  // namespace tessera
