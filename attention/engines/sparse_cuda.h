// Windows and masks of blocks on CUDA in halves, on tensor cores.
#pragma once

#include "tessera/attention/engines/block_mask.h"
#include "tessera/attention/engines/dense_cuda.h"

namespace tessera {

// Whether the two below take it: halves, heads of at most 256 elements, a positive scale, no
// conditions but causal and a window, no score functor; blocks of 64 rows or a larger power of two
// each way. `mask` may be null: all that the window lets.
bool has_sparse_tiles(const Tensor& query, const Tensor& value, const AttentionOptions& options,
                      const BlockMask* mask);

// As dense_forward_cuda and dense_backward_cuda, with a window and a mask; the window includes the
// mask's own. Entries of a mask are counted, those of a window alone are left to the caller.
AttentionResult sparse_forward_cuda(const Tensor& query, const Tensor& key, const Tensor& value,
                                    const AttentionOptions& options, const BlockMask* mask);
DenseGradients sparse_backward_cuda(const Tensor& query, const Tensor& key, const Tensor& value,
                                    const AttentionResult& forward, const Tensor& grad_output,
                                    const Tensor& grad_logsumexp, const AttentionOptions& options,
                                    const BlockMask* mask);

}  // namespace tessera
