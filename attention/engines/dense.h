// The dense engine: softmax(f(scale · Q Kᵀ)) V, tiled with an online softmax (Milakov & Gimelshein
// 2018; Dao et al. 2022, "FlashAttention"), never holding an n × n matrix.
#pragma once

#include "tessera/attention/engines/engine.h"

namespace tessera {

// query (B, H, N, D), key (B, Hk, M, D), value (B, Hk, M, Dv), f32 or f64, on CUDA bf16 and f16
// too, any strides; rows with stride 1 along D are read in place (halves: rows of a multiple of 8
// elements, 16-byte aligned). H is a multiple of Hk: key head j serves query heads j·H/Hk …
// (j+1)·H/Hk − 1. A query that sees no key gives output 0 and logsumexp −inf. Differentiable in
// query, key, value and the tables of the score: once by its kernels, twice through its reference.
AttentionResult dense_attention(const Tensor& query, const Tensor& key, const Tensor& value,
                                const AttentionOptions& options = {});

// The same function composed of plain ops: quadratic memory, any order of derivative, the engine's
// specification.
AttentionResult dense_attention_reference(const Tensor& query, const Tensor& key,
                                          const Tensor& value,
                                          const AttentionOptions& options = {});

// What the other references are made of: softmax attention over scores (B, H, N, M) of which those
// with hidden (broadcastable, bool) do not count. (B, Hk, M, D) → (B, H, M, D) repeats key heads.
AttentionResult attention_of_scores(const Tensor& scores, const Tensor& hidden,
                                    const Tensor& value);
Tensor repeat_heads(const Tensor& x, int64_t heads);
// The entries that `options` hides, bool, broadcastable to (B, H, N, M); undefined for none.
Tensor hidden_entries(const AttentionOptions& options, int64_t queries, int64_t keys,
                      Device device);
// The score functor over whole scores (B, H, N, M).
Tensor apply_score(const AttentionOptions& options, const Tensor& scores);

}  // namespace tessera
