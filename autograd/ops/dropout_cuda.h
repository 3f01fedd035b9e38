// Thinning on a device, with the draws of the CPU.
#pragma once

#include "tessera/core/random.h"
#include "tessera/core/tensor.h"

namespace tessera {

// y = x · scale where the 16-bit draw is at least `threshold`, else 0; x dense. `group` consecutive
// elements share a draw: with 1 eight draws come from a counter, else the upper halves of its words
// are four.
struct Thinning {
  uint32_t threshold;
  double scale;
  int64_t group;
};
Tensor dropout_cuda(const Tensor& x, const Thinning& thinning, RandomKey key);

// 1 at the first maximum of each row (the last dimension) of a dense tensor, 0 elsewhere.
Tensor one_hot_of_maximum_cuda(const Tensor& x);

}  // namespace tessera
