// Reading and adding at positions of planes on a CUDA device. All tensors are dense.
#pragma once

#include "tessera/core/tensor.h"

namespace tessera {

// y (B, C, P…) = x (B, C, size…) at index (B, C or 1, P…), i64; −1 gives 0. An index outside the
// plane stops the program with a message.
void plane_gather_cuda(const Tensor& x, const Tensor& index, const Tensor& y);

// x (B, C, size…) = for every element the sum of weight · y over the entries of index that name it.
// y (B, C, P…) has `entries` entries for each position: index (B, C or 1, P…, entries), weight of
// its shape in f32 (f64 for f64), or undefined: 1. Entries are sorted by their element and added in
// order, so the bits repeat.
void plane_scatter_cuda(const Tensor& y, const Tensor& index, const Tensor& weight, int64_t entries,
                        const Tensor& x);

}  // namespace tessera
