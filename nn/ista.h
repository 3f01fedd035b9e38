// Position-wise parts that sparsify: proximal gradient steps of a lasso, unrolled (CRATE).
#pragma once

#include "tessera/nn/feed_forward.h"

namespace tessera {

struct ShrinkageConfig {
  double eta = 0.1;
  double lambda = 0.1;
  void shrinkage_fields(Fields& f) {
    f("eta", eta, "η: step size").above(0);
    f("lambda", lambda, "λ: price of a code's entries; η λ is the threshold").min(0);
  }
};

// One non-negative proximal gradient step on ½ ‖y − D a‖² + λ ‖a‖₁ from a = y (Yu et al. 2023,
// "White-Box Transformers via Sparse Rate Reduction"), D (width, width):
//   z = max(0, y + η Dᵀ(y − D y) − η λ)
// z takes the place of the stream: there is no residual. D starts Kaiming-uniform. The subgradient
// at the kink is 0.
struct Ista final : FeedForward {
  struct Config : ShrinkageConfig {
    TESSERA_FIELDS(f)
    { shrinkage_fields(f); }
  };
  Tensor dictionary;  // D

  Ista(const Config& config, const FeedForwardGeometry& g);
  Tensor operator()(const Tensor& x, const LayerContext& context) override;
  bool residual() const override { return false; }
  TESSERA_MEMBERS(dictionary)

 private:
  Config c_;
};

// Two steps from a = 0 over an overcomplete dictionary D (width, hidden), and another one D₁ to
// leave with (Yang et al. 2024, "Scaling White-Box Transformers for Vision", CRATE-α):
//   a₁ = max(0, η Dᵀy − η λ),  a₂ = max(0, a₁ − η Dᵀ(D a₁ − y) − η λ),  D₁ a₂ joins the residual.
struct OvercompleteLasso final : FeedForward {
  struct Config : ShrinkageConfig {
    double ratio = 4;
    TESSERA_FIELDS(f)
    {
      f("ratio", ratio, "atoms as a multiple of the width").above(0).max(1024);
      shrinkage_fields(f);
    }
  };
  Tensor dictionary, output;  // D, D₁ (width, hidden)
  Dropout drop;

  OvercompleteLasso(const Config& config, const FeedForwardGeometry& g);
  Tensor operator()(const Tensor& x, const LayerContext& context) override;
  TESSERA_MEMBERS(dictionary, output, drop)

 private:
  Config c_;
};

}  // namespace tessera
