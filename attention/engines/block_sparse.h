// The block-sparse engine: dense attention over the blocks of a mask, in time and memory that
// follow the number of blocks.
#pragma once

#include "tessera/attention/engines/block_mask.h"
#include "tessera/attention/engines/engine.h"

namespace tessera {

// As dense_attention (dense.h), of the entries that count in `mask`, whose batches and heads are
// those of the query or 1, and that `options` lets. Conditions of `options` that the mask's own
// window does not include are asked of every entry, of full blocks too: exact, but slower on CUDA.
// Positions do not go with a mask that has a window. On CUDA halves run on tensor cores where
// blocks have 64 rows or a larger power of two and `options` asks for nothing but a window (blocks
// of 128 by 128 with Hopper's instructions), all else on the generic tile.
AttentionResult block_sparse_attention(const Tensor& query, const Tensor& key, const Tensor& value,
                                       const BlockMask& mask, const AttentionOptions& options = {});

// The same composed of plain ops: quadratic memory, any order of derivative, the specification.
AttentionResult block_sparse_attention_reference(const Tensor& query, const Tensor& key,
                                                 const Tensor& value, const BlockMask& mask,
                                                 const AttentionOptions& options = {});

}  // namespace tessera
