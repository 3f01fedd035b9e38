// merge on CUDA: one pass over the parts, forward and backward.
#pragma once

#include "tessera/attention/engines/engine.h"

namespace tessera {

constexpr int kMostMerged = 8;  // parts that one kernel takes

// Outputs (B, H, N, D) with dense rows and logsumexps (B, H, N) of any strides.
AttentionResult merge_cuda(const TensorList& outputs, const TensorList& logsumexps);

struct MergeGradients {
  TensorList outputs, logsumexps;
};
// `grad_logsumexp` may be undefined.
MergeGradients merge_backward_cuda(const TensorList& outputs, const TensorList& logsumexps,
                                   const AttentionResult& merged, const Tensor& grad_output,
                                   const Tensor& grad_logsumexp);

}  // namespace tessera
