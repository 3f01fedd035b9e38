// Patterns of block-sparse attention as masks of blocks, made on the grid's device without waiting
// for it (except where said).
//
// A pattern chooses blocks; which entries of a chosen block count is the grid's window alone:
// right = 0 makes any pattern causal to the token, and blocks that the window hides are dropped.
// Tensors of heads are (B|1, H|1, …): what all batches or heads share has size 1. Query i stands at
// position i + keys − queries.
#pragma once

#include "tessera/attention/engines/block_mask.h"

namespace tessera {

// Every block: causal attention with right = 0, a sliding window exact to the token with left too.
BlockMask all_blocks(const BlockGrid& grid);

// The first `sink` keys, and the last `window` keys up to each query, itself included: every block
// that holds such an entry (Han et al. 2024; Jiang et al. 2024, "A-shape").
BlockMask sink_blocks(const BlockGrid& grid, int64_t sink, int64_t window);

// Every head sees a band of `local` blocks and a stripe of its own, one block in `stride`: with
// blocks i and j counted from position 0 and the group's number g (of query heads sharing a key
// head),
//   causal (right = 0)   j ≤ i, and i − j < local or (j + g · step + offset) mod stride = 0, with
//                        step = max(1, ⌊stride / heads⌋)
//   otherwise            max(0, |i − j| − local + 1) mod stride = 0, the same for all heads
// and everything for the last `dense_groups` groups (Lin et al. 2024, "S2-Attention"). Blocks are
// square and the first query stands at the start of one.
struct StridedBlocks {
  int64_t heads = 1;      // of queries
  int64_t key_heads = 1;  // a divisor of them
  int64_t local = 1;      // the block itself included
  int64_t stride = 1;
  int64_t offset = 0;
  int64_t dense_groups = 0;
  bool same_for_all = false;  // one mask for all heads: that of group 0
};
BlockMask strided_blocks(const BlockGrid& grid, const StridedBlocks& pattern);

// Every block that holds an entry whose key is in `vertical` (B|1, H|1, V) or whose distance, query
// position − key position, is in `slash` (B|1, H|1, S); integers, −1 for nothing, distances below
// the number of keys (Jiang et al. 2024, "MInference"). All entries of these blocks count that the
// window lets: more than the columns and diagonals themselves.
BlockMask vertical_slash_blocks(const BlockGrid& grid, const Tensor& vertical, const Tensor& slash);

// Of the blocks that the window does not hide, per query block the k with the highest scores
// (B|1, H|1, query blocks, key blocks), ties to the lowest index; with `diagonal`, those that hold
// a query's own position come first.
BlockMask top_blocks(const BlockGrid& grid, const Tensor& scores, int64_t k, bool diagonal = true);

// Those with a score above the threshold, the `minimum` highest of each query block in any case.
BlockMask threshold_blocks(const BlockGrid& grid, const Tensor& scores, double threshold,
                           int64_t minimum = 1, bool diagonal = true);

// The key blocks listed per query block: i32 or i64 (B|1, H|1, query blocks, n), −1 for nothing.
BlockMask listed_blocks(const BlockGrid& grid, const Tensor& lists);

// Every block of any of the masks, which have the same sizes; its window is the widest of theirs,
// so that what was hidden inside a block may count now.
BlockMask union_of(const std::vector<BlockMask>& masks);

// Head h as in masks[choice[h]]; windows as in union_of.
BlockMask mixture_of(const std::vector<BlockMask>& masks, const std::vector<int64_t>& choice);

}  // namespace tessera
