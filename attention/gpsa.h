// Gated positional self-attention.
#pragma once

#include "tessera/attention/attention.h"
#include "tessera/attention/engines/engine.h"
#include "tessera/attention/engines/windows.h"
#include "tessera/nn/linear.h"

namespace tessera {

// Attention on a grid that can start as a convolution (d'Ascoli et al. 2021, "ConViT"). Per head,
// with R_ij = (δx, δy, δx² + δy²) for δ = place of key j − place of query i in patches:
//   P^c = softmax_j(⟨q_i, k_j⟩ / √d)      content, (B, H, N, N)
//   P^p = softmax_j(w · R_ij + b)         position, (H, N, N), the same for all images
//   A   = (1 − g) P^c + g P^p,  g = σ(λ)  mixed after each was normalised
//   y   = W_o concat_h(A v)
// Neither map is stored: the engine runs twice, over positions once per head with the values of all
// images side by side, its scores read from a table of the (2G − 1)² offsets. b cancels in the
// softmax: its gradient is 0. Everything is differentiable. R lives on the grid alone, so there are
// no tokens before it.
//
// Local initialisation: W_v = 1, and of the first m² heads, m = ⌊√H⌋, head a + m b looks at Δ = (b,
// a) − (m − 1)/2 patches: w = α (2Δx, 2Δy, −1), a bump −α ‖δ − Δ‖². Other heads keep α times their
// random w. Evaluation reports every head's "gate" and how far a layer's mean has "gate_moved".
struct GpsaAttention final : Attention {
  struct Config {
    double locality_strength = 1;
    bool local_init = true;
    double gate_init = 1;
    bool qkv_bias = false;
    TESSERA_FIELDS(f)
    {
      f("locality_strength", locality_strength, "α: how narrow heads start; larger is narrower")
          .min(0);
      f("local_init", local_init, "start as a convolution: heads look at places around the patch");
      f("gate_init", gate_init, "λ at the start; positions have a share of sigmoid(λ)");
      f("qkv_bias", qkv_bias, "biases in the projections of queries, keys and values");
    }
  };
  static void capabilities(Capabilities& c);

  Linear qk, value, out;
  Linear position;  // weight (H, 3), bias (H)
  Tensor gate;      // λ (H)

  GpsaAttention(const Config& config, const Geometry& g);
  Tensor operator()(const Tensor& x, const AttentionContext& context) override;
  TESSERA_MEMBERS(qk, value, out, position, gate)

  // w · R + b for every offset: (H, 2 rows − 1, 2 columns − 1), f32 or f64.
  Tensor position_scores() const;

 private:
  void start_local(double strength);
  Tensor attend_positions(const Tensor& v) const;
  Tensor mixed(const Tensor& q, const Tensor& k, const Tensor& v, const Score& score) const;

  void watch(const LayerContext& layer) const;

  int64_t heads_;
  double first_gate_;
  int64_t rows_, columns_;
  WindowRule whole_;  // every key is in the window of every query
  Constant offsets_;  // R of every offset, ((2 rows − 1)(2 columns − 1), 3)
};

}  // namespace tessera
