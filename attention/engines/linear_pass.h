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
  bool wide = false;  // the output in the states' dtype

  int64_t batch() const { return key.size(0); }
  int64_t length() const { return key.size(2); }
  int64_t width() const { return key.size(3); }
  int64_t value_width() const { return value.size(3); }
  int64_t chunks() const { return (length() + chunk - 1) / chunk; }
  int64_t segments() const { return std::max<int64_t>(1, (length() + segment - 1) / segment); }
  int64_t last_segment() const { return backward ? 0 : segments() - 1; }
};

// States and sums are f32 for halves.
inline DType state_dtype(DType dtype) {
  return dtype == DType::f64 ? DType::f64 : DType::f32;
}

// What the gradient of the decays needs to know of a pass. Entries may be split into parts that add
// up.
struct Trace {
  // ⟨output row, partner row⟩, (2, parts, B, H, N): of the whole output and, backward, of its a_i
  // Sᵀ q_i. What a token gives itself does not depend on decays and may be left out by both passes.
  Tensor dots;
  Tensor chunk_states;  // forward: the state before every chunk, in an order of its own
  Tensor borders;  // backward, (parts, B, H, chunks): exp(G) ⟨S, R⟩ across every chunk, G its decay
};

struct Sums {
  Tensor output;  // (B, H, N, E), in memory (B, N, H, E)
  Tensor state;   // (B, H, W, E): what left the last segment, if wanted
  Trace trace;    // if there is a partner
};

// Decides chunk and segment of a pass from the sizes alone. `chunk` as the caller asked for it.
void choose_lengths(Pass& pass, int64_t chunk);

// (B, H, segments, W, E): the state that enters every segment; `first` (B, H, W, E), which may be
// undefined, enters the first (backward: the last). pass.query is not used.
Tensor states(const Pass& pass, const Tensor& first);

// `states` may have any strides. `partner` (B, H or a divisor, N, E) may be undefined; with it a
// pass backward needs the chunk_states of one forward.
Sums sums(const Pass& pass, const Tensor& states, bool wants_state, const Tensor& partner = {},
          const Tensor& chunk_states = {});

// The gradient of log_decay per token, (B, H, N), from the traces of the passes to dq (partner q)
// and to dk (partner k). Decay g_u acts between tokens j < u ≤ i of its chunk, from earlier chunks
// to i ≥ u, from j < u to later chunks, and from earlier to later ones:
//     dg_u = Σ_{i ≥ u} (q_i·dq_i − (k_i·dk_i inside)) + Σ_{j < u} (k_j·dk_j across) + exp(G) ⟨S, R⟩
// Sums end at the chunk's borders because terms cancel in longer ones.
Tensor decay_gradient(const Pass& pass, const Trace& of_query, const Trace& of_key);

}  // namespace tessera::linear_engine
