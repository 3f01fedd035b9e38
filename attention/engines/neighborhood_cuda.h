// The neighborhood engine on tensor cores.
#pragma once

#include "tessera/attention/engines/neighborhood.h"

namespace tessera {

// Halves with rows of at most 128 elements, a positive scale and no score functor but a grid_bias
// over the same windows; the gradient of its table, if that is wanted, must fit into shared memory.
bool neighborhood_on_tensor_cores(const Tensor& query, const Tensor& value,
                                  const NeighborhoodOptions& options, bool wants_table);

// `options.scale` is resolved, tables are f32. Results lie in memory as (B, N, H, D); the logsumexp
// is f32.
AttentionResult neighborhood_forward_cuda(const Tensor& query, const Tensor& key,
                                          const Tensor& value, const NeighborhoodOptions& options);

struct NeighborhoodGradients {
  Tensor query, key, value;
  Tensor table;  // of the grid_bias, if it is wanted
};
// `forward` is what neighborhood_forward_cuda returned; `grad_logsumexp` may be undefined. The same
// bits on every run.
NeighborhoodGradients neighborhood_backward_cuda(
    const Tensor& query, const Tensor& key, const Tensor& value, const AttentionResult& forward,
    const Tensor& grad_output, const Tensor& grad_logsumexp, const NeighborhoodOptions& options,
    bool wants_table);

}  // namespace tessera
