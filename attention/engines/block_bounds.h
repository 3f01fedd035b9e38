// What the window of a grid makes of a block, from its corners.
#pragma once

#include "tessera/attention/engines/block_mask.h"

namespace tessera {

struct BlockBounds {
  int64_t queries, keys, block_q, block_k, left, right;

  explicit BlockBounds(const BlockGrid& g)
      : queries(g.queries),
        keys(g.keys),
        block_q(g.block_q),
        block_k(g.block_k),
        left(g.left),
        right(g.right) {}

  // Query block i, key block j.
  TESSERA_HD BlockKind kind(int64_t i, int64_t j) const {
    const int64_t ahead = keys - queries;  // position of query 0
    const int64_t last_query = least((i + 1) * block_q, queries) - 1,
                  last_key = (j + 1) * block_k - 1;
    const int64_t least_offset = j * block_k - (last_query + ahead);
    const int64_t most_offset = least(last_key, keys - 1) - (i * block_q + ahead);
    if (right >= 0 && least_offset > right) return BlockKind::hidden;
    if (left >= 0 && most_offset < -left) return BlockKind::hidden;
    const bool inside = (right < 0 || most_offset <= right) && (left < 0 || least_offset >= -left);
    return inside && last_key < keys ? BlockKind::full : BlockKind::partial;
  }
  // Entries of the block that the window lets.
  TESSERA_HD int64_t entries(int64_t i, int64_t j) const {
    const int64_t ahead = keys - queries, last_query = least((i + 1) * block_q, queries);
    if (kind(i, j) == BlockKind::full) return (last_query - i * block_q) * block_k;
    int64_t total = 0;
    for (int64_t q = i * block_q; q < last_query; ++q) {
      int64_t begin = j * block_k, end = least((j + 1) * block_k, keys);
      if (left >= 0) begin = most(begin, q + ahead - left);
      if (right >= 0) end = least(end, q + ahead + right + 1);
      total += most(0, end - begin);
    }
    return total;
  }

 private:
  static TESSERA_HD int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
  static TESSERA_HD int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
};

}  // namespace tessera
