// The dense engine: softmax(scale · Q Kᵀ) V, tiled with an online softmax (Milakov & Gimelshein
// 2018; Dao et al. 2022, "FlashAttention"), never holding an n × n matrix.
#pragma once

#include "tessera/attention/engines/engine.h"

namespace tessera {

struct DenseOptions {
  bool causal = false;  // query i of N sees keys j ≤ i + (M − N): the queries are the newest tokens
  double scale = 0;  // 0: 1 / sqrt(D)
};

// query (B, H, N, D), key (B, Hk, M, D), value (B, Hk, M, Dv), f32 or f64, on CUDA bf16 and f16
// too, any strides; rows with stride 1 along D are read in place (halves: rows of a multiple of 8
// elements, 16-byte aligned). H is a multiple of Hk: key head j serves query heads j·H/Hk …
// (j+1)·H/Hk − 1. A query that sees no key gives output 0 and logsumexp −inf. Once differentiable
// by its kernels, twice through its reference.
AttentionResult dense_attention(const Tensor& query, const Tensor& key, const Tensor& value,
                                const DenseOptions& options = {});

// The same function composed of plain ops, with an optional additive bias that broadcasts to
// (B, H, N, M): quadratic memory, any order of derivative, the engine's specification.
AttentionResult dense_attention_reference(const Tensor& query, const Tensor& key,
                                          const Tensor& value, const DenseOptions& options = {},
                                          const Tensor& bias = {});

}  // namespace tessera
