// What all engines share: their result, its layout in memory, and the count of what they computed.
#pragma once

#include "tessera/core/tensor.h"

namespace tessera {

// What every softmax engine returns. Partial results over disjoint keys merge exactly through the
// logsumexp (attention/merge.h), so both are differentiable.
struct AttentionResult {
  Tensor output;     // (B, H, N, D)
  Tensor logsumexp;  // (B, H, N): log Σ_j exp(score_ij) over the visible keys; −inf for none; f32
                     // for halves
};

// Score entries computed by the engines since the start (each visible query–key pair counts once
// per head in a forward pass).
int64_t score_entries();
void count_score_entries(int64_t entries);

namespace engine {

// A (B, H, N, D) tensor that lies in memory as (B, N, H, D), so that merging heads is free.
Tensor empty_heads(const Shape& shape, DType dtype, Device device);
// x, or a copy of it whose rows along the last dimension are dense.
Tensor with_dense_rows(const Tensor& x);

}  // namespace engine

}  // namespace tessera
