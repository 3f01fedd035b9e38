// Lists of the gather engine as kernels see them, and sums over the slots of a query.
#pragma once

#include "tessera/attention/engines/gather_attention.h"

namespace tessera::lists {

// Lists (B|1, H|1, G, W), dense; the heads of lists are told apart by `head_of`.
struct Lists {
  const int32_t* data = nullptr;
  int batches = 0, heads = 0;  // each 1 when it is the same for all
  int groups = 0, width = 0;

  Lists() = default;
  explicit Lists(const Tensor& lists);  // contiguous, i32
  TESSERA_HD bool is_set() const { return batches > 0; }
  TESSERA_HD int64_t size() const { return static_cast<int64_t>(groups) * width; }
  TESSERA_HD int64_t head_of(int64_t b, int64_t h) const {
    return (batches == 1 ? 0 : b) * heads + (heads == 1 ? 0 : h);
  }
  TESSERA_HD const int32_t* head(int64_t b, int64_t h) const {
    return data + head_of(b, h) * size();
  }
};

// Lists must be i32 (B|1, H|1, G, W) with indices in [−1, size), on the device of `x` (B, H, …);
// returns them contiguous. Errors begin with `op`.
Tensor checked_lists(std::string_view op, std::string_view what, const Tensor& lists,
                     const Tensor& x, int64_t size);

// Σ over the slots of every query, (B, H, S, D) → (B, H, queries, D), in the order of the slots.
Tensor sum_slots(const Tensor& x, const Tensor& query_lists, int64_t queries);

}  // namespace tessera::lists
