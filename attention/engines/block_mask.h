// Which blocks of scores count: what block-sparse attention runs over.
//
// A block is block_q queries by block_k keys. A mask keeps a list of key blocks per (batch, head,
// query block), the partial blocks first, then the full ones, each kind ascending, and the
// transpose of these lists. Every entry of a full block counts; entries of a partial block count
// where the mask's window lets them (and where there is a key: a last block that is cut short is
// partial).
#pragma once

#include "tessera/core/inline.h"
#include "tessera/core/tensor.h"

namespace tessera {

// The scores cut into blocks, and a window over single entries as in AttentionOptions: key position
// − query position in [−left, right], −1 for no bound; key j is at position j and query i at i +
// keys − queries. right = 0 is causal.
struct BlockGrid {
  int64_t queries = 0, keys = 0;
  int64_t block_q = 64, block_k = 64;
  int64_t left = -1, right = -1;
  Device device = {};

  int64_t query_blocks() const { return (queries + block_q - 1) / block_q; }
  int64_t key_blocks() const { return (keys + block_k - 1) / block_k; }
  bool has_window() const { return left >= 0 || right >= 0; }
};

enum class BlockKind : uint8_t { hidden, partial, full };

// One list of blocks as kernels read it: index[0, partial) are partial, index[partial, count) full.
struct BlockRow {
  const int32_t* index = nullptr;
  int partial = 0, count = 0;
};

// All lists of one direction, for kernels.
struct BlockRows {
  const int32_t* counts = nullptr;  // per row: partial blocks, full blocks
  const int32_t* index = nullptr;   // `capacity` per row
  int64_t batch = 0, head = 0;      // rows from one batch, from one head to the next; 0: shared
  int capacity = 0;
  bool all_partial = false;  // a rule beyond the mask's window applies, to full blocks too

  TESSERA_HD BlockRow row(int b, int h, int block) const {
    const int64_t at = b * batch + h * head + block;
    const int partial = counts[2 * at], full = counts[2 * at + 1];
    return {index + at * capacity, all_partial ? partial + full : partial, partial + full};
  }
};

struct BlockLists {
  Tensor counts;  // i32 (B|1, H|1, R, 2)
  Tensor index;   // i32 (B|1, H|1, R, capacity); what lies behind the counted ones is 0

  BlockRows rows(bool all_partial = false) const;
};

struct BlockMask {
  BlockGrid grid;
  Tensor map;             // u8 (B|1, H|1, query blocks, key blocks): BlockKind
  BlockLists keys_of;     // key blocks of a query block
  BlockLists queries_of;  // query blocks of a key block
  Tensor overflow;        // i32 (1), on CUDA: not 0 if a list was longer than its capacity
};

// Longest lists; −1: as long as a list can be.
struct BlockCapacity {
  int64_t keys = -1;     // of a query block
  int64_t queries = -1;  // of a key block
};

// The mask of the blocks where `active` (B|1, H|1, query blocks, key blocks), bool or u8, is not 0.
// The window decides by its bounds which of them are hidden, partial and full. Runs on the grid's
// device without waiting for it. A list beyond its capacity throws on the CPU; on CUDA it is cut
// and sets `overflow`. Not differentiable.
BlockMask block_mask(const Tensor& active, const BlockGrid& grid, BlockCapacity capacity = {});

// Whether a list was cut (waits for the device).
bool overflowed(const BlockMask& mask);
// Entries of the scores that count, over all batches and heads of the mask (waits for the device).
int64_t count_entries(const BlockMask& mask);
// Which entries are hidden: bool (B|1, H|1, queries, keys), for references and tests.
Tensor hidden_entries(const BlockMask& mask);

}  // namespace tessera
