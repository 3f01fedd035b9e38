// The dense engine on tensor cores: bf16 and f16 with f32 scores, sums and logsumexp. What it does
// not take runs on the generic tile (tiles_cuda.h).
#pragma once

#include "tessera/attention/engines/dense.h"

namespace tessera {

// Any strides; `options.scale` is already resolved. Results lie in memory as (B, N, H, D).
AttentionResult dense_forward_cuda(const Tensor& query, const Tensor& key, const Tensor& value,
                                   const AttentionOptions& options);

struct DenseGradients {
  Tensor query, key, value;
};

// `forward` is what dense_forward_cuda returned; `grad_logsumexp` may be undefined. The same bits
// on every run: one kernel sums over queries for dK and dV, another over keys for dQ.
DenseGradients dense_backward_cuda(const Tensor& query, const Tensor& key, const Tensor& value,
                                   const AttentionResult& forward, const Tensor& grad_output,
                                   const Tensor& grad_logsumexp, const AttentionOptions& options);

}  // namespace tessera
