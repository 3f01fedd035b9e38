// Centroids of tokens, one set per head, found by an online k-means while a model trains (Roy et
// al. 2021, "Routing Transformer"; van den Oord et al. 2017 for the averages).
#pragma once

#include "tessera/config/fields.h"
#include "tessera/nn/module.h"

namespace tessera {

struct CentroidConfig {
  int64_t clusters = 8;
  std::string centroid_rule = "unit";
  double decay = 0.999;

  void centroid_fields(Fields& f) {
    f("clusters", clusters, "clusters of a routing head").min(1).max(1 << 16);
    f("centroid_rule", centroid_rule,
      "unit: average of the normalised means of batches; ema: averages of sums and counts; "
      "gradient: learned")
        .one_of({"unit", "ema", "gradient"});
    f("decay", decay, "what the averages keep per step").min(0).below(1);
  }
};

// M (H, C, d). A point is a normalised query or key x; the nearest centroid has the largest ⟨x, M⟩,
// the lowest of equals. With z the one-hot of the nearest, a step of training moves M by
//   unit      M ← decay M + (1 − decay) Σ z x / ‖Σ z x‖ where anybody is near, points of length 1;
//             the first batch starts with ten rounds of k-means from random tokens
//   ema       n ← decay n + (1 − decay) Σ z, s ← decay s + (1 − decay) Σ z x,
//             M = s / ((n + ε) / (Σ_c n + C ε) · Σ_c n), ε = 1e-5, points of length √d
//   gradient  nothing: M is a parameter
// once per forward pass, not when a segment is recomputed and not in evaluation. Buffers but for
// `gradient`; no gradient reaches M then.
class Centroids : public Module {
 public:
  Centroids(const CentroidConfig& config, int64_t heads, int64_t head_dim);
  void members(Members& m) override;

  // x (B, H, N, d) of length √d as points, differentiable.
  Tensor points(const Tensor& x) const;
  // To be called first in a forward pass: starts from the points where nothing was seen yet.
  // `hidden` (B, 1, N), bool, or undefined: points that do not count, here and below.
  void begin(const Tensor& points, const Tensor& hidden);
  // ⟨x, M_c⟩ (B, H, C, N), −∞ for hidden points; no gradient.
  Tensor nearness(const Tensor& points, const Tensor& hidden) const;
  // mean ‖x − M_nearest‖² / d, to x alone; with `gradient` also the same to M alone, times
  // `codebook`. nearest (B, H, N).
  Tensor distance(const Tensor& points, const Tensor& nearest, const Tensor& hidden) const;
  Tensor codebook_distance(const Tensor& points, const Tensor& nearest, const Tensor& hidden) const;
  bool learned() const { return c_.centroid_rule == "gradient"; }
  // Moves M where the step asks for it.
  void learn(const Tensor& points, const Tensor& nearest, const Tensor& hidden);

  const Tensor& values() const { return centroids_; }

 private:
  void k_means(const Tensor& points, const Tensor& hidden);
  const Tensor& current() const;

  CentroidConfig c_;
  Tensor centroids_;
  Tensor count_, sum_;    // of `ema`
  Tensor batches_;        // of `unit`: f32 (1), how many moved M
  bool started_ = false;  // `batches_` was looked at
  Tensor before_;         // what the last forward pass of training used
};

}  // namespace tessera
