// Local search over permutations of experts (COMET+; Ibrahim et al., KDD 2023, "COMET: Learning
// Cardinality Constrained Mixture of Experts with Trees and Local Search", section 4).
#pragma once

#include <span>
#include <vector>

#include "tessera/config/fields.h"
#include "tessera/nn/context.h"
#include "tessera/nn/module.h"

namespace tessera {

struct SearchConfig {
  int64_t steps = 0;
  double noise = 0;
  double entropy = 1e-4;
  TESSERA_FIELDS(f)
  {
    f("steps", steps, "training steps during which the permutation is soft and learns").min(1);
    f("noise", noise, "share of Gumbel noise on the scores").min(0);
    f("entropy", entropy, "weight of the entropy of the soft permutation").min(0);
  }
};

// Log of the doubly stochastic matrices that alternating normalisation of exp(scores) approaches:
// `iterations` times Λ ← Λ − lse over the last dimension, Λ ← Λ − lse over the one before. scores
// (m, n, n) f64. Differentiable. Sinkhorn 1964; Mena et al. 2018.
Tensor sinkhorn(const Tensor& scores, int64_t iterations);

// The permutation π that maximises Σ_i scores[i, π(i)], scores row-major (n, n), in O(n³) (Kuhn
// 1955; Jonker & Volgenant 1987).
std::vector<int64_t> best_assignment(std::span<const double> scores, int64_t n);

// m permutation matrices over n experts, soft while step < T and hard from then on and in
// evaluation:
//   λ = 10^(−3 − 4 step/T), I = ⌊20 + 130 step/T⌋, Π = exp(sinkhorn((Ω + noise · Gumbel) / λ, I)),
// in f64. Hard is the best assignment of the last soft Π; the identity before there is one. Ω
// learns through all iterations; the hard Π is constant. The host solves the assignment, so no step
// can be recorded.
class PermutationSearch : public Module {
 public:
  Tensor omega;  // (m, n, n)
  Tensor soft;   // buffer (m, n, n): the last soft Π, 0 before

  PermutationSearch(const SearchConfig& config, int64_t experts, int64_t instances = 1);
  bool searching(const LayerContext& context) const;
  // Π (m, n, n), which moves the weight of row i to column j. While it searches the entropy
  // Σ −Π ln Π of Π and of its row-normalised form joins the losses.
  Tensor operator()(const LayerContext& context);
  // The hard permutations, i64 (m, n): leaf i becomes expert columns[i].
  Tensor columns() const;
  bool capturable() const override { return false; }
  void members(Members& m) override;

 private:
  Tensor soft_permutation(const LayerContext& context) const;
  SearchConfig c_;
};

}  // namespace tessera
