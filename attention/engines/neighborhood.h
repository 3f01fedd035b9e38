// The neighborhood engine: softmax attention over windows of a grid of tokens in one to three
// dimensions: neighborhoods that shift inward at borders, dilated, strided, causal per axis
// (Hassani et al. 2023, 2024), blocks with a halo (Vaswani et al. 2021), shifted windows (Liu et
// al. 2021).
#pragma once

#include "tessera/attention/engines/engine.h"
#include "tessera/attention/engines/windows.h"

namespace tessera {

struct NeighborhoodOptions {
  WindowRule windows;
  double scale = 0;  // of the products; 0: 1 / sqrt(D)
  Score score = {};  // positions are the numbers of tokens
};

// query (B, H, N, D), key (B, Hk, M, D), value (B, Hk, M, Dv), N and M being the tokens of the
// grids of queries and keys in row-major order; dtypes, strides, heads and derivatives as for
// dense_attention. Windows of one grid and their other keys (a class token, say) merge through the
// logsumexp (attention/merge.h).
AttentionResult neighborhood_attention(const Tensor& query, const Tensor& key, const Tensor& value,
                                       const NeighborhoodOptions& options);

// The same function composed of plain ops: quadratic memory, any order of derivative, the engine's
// specification.
AttentionResult neighborhood_attention_reference(const Tensor& query, const Tensor& key,
                                                 const Tensor& value,
                                                 const NeighborhoodOptions& options);

// Scores of relative positions on the grid. Along an axis key j of a line stands at j −
// origin_of(i) from query i (see AxisWindows), which with window w is one of 2w − 1 places.
//
// s + table[h, place on every axis], table (H|1, 2w₁ − 1, …, one size for each axis).
Score grid_bias(const Tensor& table, const WindowRule& windows);
// s + Σ over axes of table_a[b, h, i, place on axis a], tables (B|1, H|1, N, 2w_a − 1): places that
// mean something to every query, as ⟨q_i, r_place⟩ does (HaloNet).
Score contextual_bias(const TensorList& tables, const WindowRule& windows);

}  // namespace tessera
