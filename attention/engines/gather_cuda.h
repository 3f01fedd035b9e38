// The gather engine on CUDA. Warps compute attention by pairs of a slot and a key in plain
// arithmetic; the groups of halves run on tensor cores (gather_tiles.cu). Sums over lists go by
// inverse lists, sorted stably on the device, so results have the same bits on every run.
#pragma once

#include "tessera/attention/engines/gather_attention.h"

namespace tessera::lists {

constexpr int64_t kWidest = 256;  // of rows in the kernels

// Slots (B, H, S, ·); `query_lists` undefined: one list per query. Lists are contiguous, the scale
// is resolved; the score must have kernels for pairs.
AttentionResult attend_cuda(const Tensor& query, const Tensor& key, const Tensor& value,
                            const Tensor& query_lists, const Tensor& key_lists,
                            const AttentionOptions& options);

struct Gradients {
  Tensor query, key, value;
  TensorList tables;  // of the score
};
Gradients attend_backward_cuda(const Tensor& query, const Tensor& key, const Tensor& value,
                               const Tensor& query_lists, const Tensor& key_lists,
                               const AttentionResult& forward, const Tensor& grad_output,
                               const Tensor& grad_logsumexp, const AttentionOptions& options);

// Outputs (B, H, S, D) with dense rows, logsumexps (B, H, S) of any strides.
AttentionResult combine_slots_cuda(const AttentionResult& slots, const Tensor& query_lists,
                                   int64_t queries, Combine how);
AttentionResult combine_slots_backward_cuda(const AttentionResult& slots, const Tensor& query_lists,
                                            Combine how, const AttentionResult& combined,
                                            const Tensor& grad_output,
                                            const Tensor& grad_logsumexp);
// Of each x: the sum over the slots of every row that lists name, and over the H / heads heads that
// share one: (B, H, S, D) → (B, heads, rows, D).
TensorList sum_slots_cuda(const TensorList& xs, const Tensor& lists, int64_t rows, int64_t heads);

}  // namespace tessera::lists
