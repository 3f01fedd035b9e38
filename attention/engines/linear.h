// The linear engine: causal attention without softmax, in chunks, with a state of constant size
// (Katharopoulos et al. 2020; with decay: Sun et al. 2023, "RetNet"; Qin et al. 2024, "Lightning
// Attention"; per token: Yang et al. 2024, "GLA"). Time and memory are linear in the length.
#pragma once

#include "tessera/core/tensor.h"

namespace tessera {

struct LinearOptions {
  double scale = 1;        // of the products q·k
  int64_t chunk = 0;       // tokens computed at once; 0: the kernel's choice. Tensor cores always
                           // take 64
  bool normalise = false;  // divide every output by its weights' sum, see below
  double epsilon = 1e-6;   // added to that sum
};

struct LinearResult {
  Tensor output;  // (B, H, N, Dv)
  Tensor state;   // (B, H, D, Dv), Dv + 1 when normalised: after the last token; f32 for halves
};

// S_t = exp(g_t) S_{t−1} + k_t v_tᵀ and o_t = scale · S_tᵀ q_t, which is
//     o_t = scale (Σ_{s ≤ t} exp(G_t − G_s) (q_t·k_s) v_s + exp(G_t) S_0ᵀ q_t),   G_t = Σ_{u ≤ t}
//     g_u
//
// query (B, H, N, D), key (B, Hk, N, D), value (B, Hk, N, Dv), H a multiple of Hk (key head j
// serves query heads j·H/Hk …), f32 or f64, on CUDA bf16 and f16 too (with f32 sums and states),
// any strides; feature maps are the caller's. log_decay g ≤ 0 and finite: undefined (none,
// Lightning), (H) (fixed, TransNormer and retention) or (B, H, N) (per token). initial_state S_0
// (B, H, D, Dv): undefined is 0. Both may be f32 beside halves. Only sums of g that are not
// positive are exponentiated, so any decay is safe; states in f16 products must stay below 65504.
// All inputs are differentiable, once by kernels, twice through the reference.
//
// normalise: o_t is divided by scale (Σ_{s ≤ t} exp(G_t − G_s) (q_t·k_s) + exp(G_t) z_0·q_t) +
// epsilon; features must make that positive. The running sum z is the state's last column: it is
// computed as one more value channel of ones.
//
// Counts what it computes among the score_entries(): pairs s ≤ t within one chunk, once per head.
LinearResult linear_attention(const Tensor& query, const Tensor& key, const Tensor& value,
                              const Tensor& log_decay = {}, const Tensor& initial_state = {},
                              const LinearOptions& options = {});

// One more token, N = 1: the same numbers as a longer sequence gives there.
LinearResult linear_attention_step(const Tensor& query, const Tensor& key, const Tensor& value,
                                   const Tensor& log_decay, const Tensor& state,
                                   const LinearOptions& options = {});

// Every token sees every token, no decay: o_t = scale · Σ_s (q_t·k_s) v_s = scale · (Σ_s k_s v_sᵀ)ᵀ
// q_t, from matrix products. Lengths may differ. The state is Σ_s k_s v_sᵀ, and options.chunk means
// nothing.
LinearResult linear_attention_full(const Tensor& query, const Tensor& key, const Tensor& value,
                                   const LinearOptions& options = {});

// linear_attention composed of plain ops: quadratic memory, any order of derivative, the engine's
// specification.
LinearResult linear_attention_reference(const Tensor& query, const Tensor& key, const Tensor& value,
                                        const Tensor& log_decay = {},
                                        const Tensor& initial_state = {},
                                        const LinearOptions& options = {});

}  // namespace tessera
