// Attention by tiles on CUDA: the generic tile, which takes any rule, score functor and source.
#pragma once

#include "tessera/attention/engines/tiles.h"

namespace tessera {

// Results lie in memory as (B, N, H, D); the logsumexp is f32 for halves. Nothing waits for the
// device.
AttentionResult attend_tiles_cuda(const TiledAttention& a);
// Two kernels, each with scores computed again: one sums over keys for dQ and the tables, one over
// queries for dK and dV.
AttentionGradients attend_tiles_backward_cuda(const TiledAttention& a,
                                              const AttentionResult& forward,
                                              const Tensor& grad_output,
                                              const Tensor& grad_logsumexp, bool wants_tables);

}  // namespace tessera
