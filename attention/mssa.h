// Multi-head subspace self-attention.
#pragma once

#include "tessera/attention/attention.h"
#include "tessera/attention/engines/engine.h"
#include "tessera/nn/linear.h"

namespace tessera {

// One step that compresses tokens towards H subspaces (Yu et al. 2023, "White-Box Transformers via
// Sparse Rate Reduction"). Queries, keys and values are one tensor, the coordinates in subspaces:
//   W = x U_inᵀ                                 (B, N, width) → (B, H, N, p), no bias
//   A_h = softmax_j(⟨W_h,i, W_h,j⟩ / √p),  O_h = A_h W_h
//   MSSA(x) = concat_h(O_h) U_outᵀ + b_out
// which approximates a gradient step on R^c = ½ Σ_h logdet(I + p/(nε²) W_h W_hᵀ). With tie_out
// U_outᵀ = U_in, as it is derived; the released models let it go free. With exact_step the
// result is c (MSSA(x) − x), c = κ p/(nε²) with n the context, so that the stream becomes (1 − c) x
// + c MSSA(x) where norms do nothing. W gets the sum of three gradients. The cache holds W alone:
// half the memory. Positions that rotate turn W, which is the value too.
struct MssaAttention final : Attention {
  struct Config {
    bool tie_out = false;
    std::optional<bool> bias = {};
    bool exact_step = false;
    double kappa = 1;
    double epsilon = 1;
    TESSERA_FIELDS(f)
    {
      f("tie_out", tie_out, "the output projection is the transposed input projection");
      f("bias", bias, "of the output projection; default: as the model says");
      f("exact_step", exact_step, "give c (MSSA(x) − x), c = κ p / (n ε²), instead of MSSA(x)");
      f("kappa", kappa, "κ of exact_step").above(0);
      f("epsilon", epsilon, "ε of exact_step: the precision of the code").above(0);
    }
  };

  Linear in;                  // U_in (H p, width)
  std::optional<Linear> out;  // U_out (width, H p), b_out; none when tied
  Tensor out_bias;            // b_out when tied

  MssaAttention(const Config& config, const Geometry& g);
  Tensor operator()(const Tensor& x, const AttentionContext& context) override;
  KvCache make_cache(int64_t capacity, const CacheOptions& options) const override;
  TESSERA_MEMBERS(in, out, out_bias)

 private:
  Tensor attend(const Tensor& w, const AttentionOptions& options,
                const AttentionContext& context) const;
  Tensor projected(const Tensor& heads) const;

  int64_t heads_, head_dim_;
  std::optional<double> step_;  // c of exact_step
};

}  // namespace tessera
