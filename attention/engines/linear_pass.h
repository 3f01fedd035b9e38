// The one computation of the linear engine. With a_i, b_j and w_ij the decays from the border
// before token i to it, from token j to the border after it, and between tokens,
//     o_i = Σ_{j ≤ i} w_ij (q_i·k_j) v_j + a_i Sᵀ q_i,     S' = (decay of all) S + Σ_j b_j k_j v_jᵀ
// over a chunk, then over the next one with S'. The gradients are the same computation with other
// tensors, those of keys and values from the last chunk to the first, where j ≥ i and a and b
// change places (Qin et al. 2024; Yang et al. 2024):
//     result   query   key   value   state                               direction
//     o        q       k     v       S, what earlier tokens left         forward
//     dq       do      v     k       Sᵀ                                  forward
//     dv       k       q     do      R, the gradient of the state left   backward
//     dk       v       do    q       Rᵀ                                  backward
// A sequence is cut into segments, which run side by side once their states are known.
#pragma once

#include "tessera/core/tensor.h"

namespace tessera::linear_engine {

struct Pass {
  Tensor query, key, value;  // (B, H or a divisor of it, N, W), (…, W), (…, E); see the table
  Tensor log_decay;          // undefined, (H) or (B, H, N), dense, in the states' dtype
  int64_t heads = 0;         // H
  int64_t segment = 0;       // tokens, a multiple of chunk
  int64_t chunk = 0;
  double scale = 1;  // of products and, forward, of Sᵀ q; backward of the state's own sum
  bool backward = false;

  int64_t batch() const { return key.size(0); }
  int64_t length() const { return key.size(2); }
  int64_t width() const { return key.size(3); }
  int64_t value_width() const { return value.size(3); }
  int64_t segments() const { return std::max<int64_t>(1, (length() + segment - 1) / segment); }
  int64_t last_segment() const { return backward ? 0 : segments() - 1; }
};

// States and sums are f32 for halves.
inline DType state_dtype(DType dtype) {
  return dtype == DType::f64 ? DType::f64 : DType::f32;
}

struct Sums {
  Tensor output;  // (B, H, N, E), in memory (B, N, H, E)
  Tensor state;   // (B, H, W, E): what left the last segment, if wanted
  Tensor dots;    // (B, H, N): ⟨output row, partner row⟩, if there is a partner
};

// Decides chunk and segment of a pass from the sizes alone. `chunk` as the caller asked for it.
void choose_lengths(Pass& pass, int64_t chunk);

// (B, H, segments, W, E): the state that enters every segment; `first` (B, H, W, E), which may be
// undefined, enters the first (backward: the last). pass.query is not used.
Tensor states(const Pass& pass, const Tensor& first);

// `states` may have any strides; `partner` (B, H or a divisor, N, E) may be undefined.
Sums sums(const Pass& pass, const Tensor& states, const Tensor& partner, bool wants_state);

// The gradient of log_decay per token, (B, H, N). With R_i the gradient of the state S_i left by
// token i, within a segment
//     dg_i = Σ_{t ≥ i} (q_t·dq_t − k_t·dk_t) + ⟨S, R⟩ at its end,
// which keeps the sums, whose terms cancel, short.
struct DecayGradient {
  Tensor query_dots, key_dots;  // (B, H, N)
  Tensor entering;              // states of the forward pass
  Tensor state;                 // what it left at the end
  Tensor left;                  // states of the backward pass: R at the end of every segment
  int64_t segment = 0;
};
Tensor decay_gradient(const DecayGradient& d);

}  // namespace tessera::linear_engine
