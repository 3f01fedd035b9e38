// COMET: a gate of k soft decision trees that harden to one leaf each (Ibrahim et al., KDD 2023,
// "COMET: Learning Cardinality Constrained Mixture of Experts with Trees and Local Search"), and
// DSelect-k, its predecessor (Hazimeh et al. 2021).
#include <bit>
#include <cmath>

#include "tessera/autograd/ops/activation.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/comparison.h"
#include "tessera/autograd/ops/einsum.h"
#include "tessera/autograd/ops/elementwise.h"
#include "tessera/autograd/ops/matmul.h"
#include "tessera/autograd/ops/reduce.h"
#include "tessera/autograd/ops/softmax.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/nn/gate.h"
#include "tessera/nn/soft_trees.h"

namespace tessera {
namespace {

// Σ_t parts[:, t, :] Π_t of (T, k, n) and Π (1 or k, n, n), or without a search Σ_t parts[:, t, :].
Tensor merged(const Tensor& parts, std::optional<PermutationSearch>& search,
              const LayerContext& context) {
  if (!search) return sum(parts, {1});
  const Tensor pi = (*search)(context).to(parts.dtype());
  return pi.size(0) == 1 ? matmul(sum(parts, {1}), select(pi, 0, 0))
                         : einsum("t k i, k i j -> t j", parts, pi);
}

struct SmoothGateConfig {
  double gamma = 1;
  double entropy = 0;
  std::optional<SearchConfig> search;
  bool own_permutations = false;

  void smooth_fields(Fields& f) {
    f("gamma", gamma, "width of the smooth step: decisions beyond ±γ/2 are hard").above(0);
    f("entropy", entropy, "weight of the entropy that training drives to hard decisions").min(0);
    f("search", search, "local search over permutations of the experts");
    f("own_permutations", own_permutations, "search one permutation per tree (selector)");
  }
  std::optional<PermutationSearch> make_search(const GateGeometry& g) const {
    if (!search) return {};
    return PermutationSearch(*search, g.experts, own_permutations ? g.k : 1);
  }
};

// P = leaf probabilities of k trees (SoftTrees), a = x A + α leaf scores,
//   u = a + ln(P + ε) where P > threshold, else −∞;  G = softmax of u over all k n leaves jointly,
//   g = Σ_t G_t Π_t, then g / Σ g.
// Leaf l from the left is expert l. When every tree sends a row to one leaf, at most k experts have
// weight. Training adds λ mean_rows Σ −P ln(P + 1e-6). Everything is differentiable as it stands; a
// hard decision and what lies behind it receive no gradient. Figure "tree_nodes": inner nodes
// reached per row.
struct Comet final : Gate {
  struct Config : SmoothGateConfig {
    double epsilon = 1e-8;
    double threshold = 0;
    bool bias = true;
    bool conditional = false;
    TESSERA_FIELDS(f)
    {
      smooth_fields(f);
      f("epsilon", epsilon, "added to leaf probabilities before the logarithm").above(0);
      f("threshold", threshold, "leaves of this probability or less are cut off").min(0).below(1);
      f("bias", bias, "biases in the inner nodes");
      f("conditional", conditional, "compute inner nodes only for rows that reach them (CPU)");
    }
  };
  SoftTrees trees;
  Linear leaf;  // output t n + l is leaf l of tree t
  std::optional<PermutationSearch> search;

  Comet(const Config& c, const GateGeometry& g)
      : trees(g.width, wanted(g.experts), g.k, c.gamma, c.bias),
        leaf(Linear::uniform(g.width, g.k * g.experts, true, 0.05)),
        search(c.make_search(g)),
        c_(c) {}

  bool capturable() const override { return !c_.conditional; }

  GateResult operator()(const Tensor& x, const LayerContext& context, const Tensor&) override {
    const TreeProbabilities p = c_.conditional ? trees.conditional(x) : trees(x);
    probe("leaves", p.leaves);
    if (training() && c_.entropy > 0) context.add_loss(row_entropy(p.leaves) * c_.entropy);
    if (context.watched() && !training()) {
      const double rows = static_cast<double>(x.size(0));
      const Tensor reached = gt(p.inner.detach(), 0).to(p.inner.dtype());
      context.add_figure("tree_nodes", sum(reached) / rows);
    }
    const Tensor g = merged(leaf_weights(x, p.leaves), search, context);
    return {.weights = g / sum(g, {1}, true), .dense = search && search->searching(context)};
  }
  TESSERA_MEMBERS(trees, leaf, search)

 private:
  static int64_t wanted(int64_t experts) {
    check(experts >= 2, "gate comet: a tree wants at least 2 experts, got {}", experts);
    return experts;
  }

  // G (T, k, n). What is cut off is chosen before the logarithm: no 0 · ∞ in the gradient.
  Tensor leaf_weights(const Tensor& x, const Tensor& p) const {
    const Tensor cut = le(p, c_.threshold);
    const Tensor scores = reshape(leaf(x).to(p.dtype()), p.shape());
    const Tensor u = scores + log(masked_fill(p, cut, 1) + c_.epsilon);
    const Tensor joint = flatten(masked_fill(u, cut, -INFINITY), 1);
    return reshape(softmax(joint, -1), p.shape());
  }

  Config c_;
};

// k selectors, each a binary code of m = ⌈log₂ n⌉ soft bits s_tj = smooth_step(x Z_t + z_t):
//   r_t[i] = Π_j (bit j of i ? s_tj : 1 − s_tj), bit 0 the most significant;
//   ω = softmax_t(x W + w), g = Σ_t ω_t r_t Π_t.
// Training adds λ mean_rows Σ −r ln(r + 1e-6) and, when n is no power of two, which leaves codes of
// no expert, ζ Σ_rows Σ_t 1 / (1e-6 + Σ_i r_t[i]). Hazimeh et al. 2021, "DSelect-k: Differentiable
// Selection in the Mixture of Experts with Applications to Multi-Task Learning".
struct DSelectK final : Gate {
  struct Config : SmoothGateConfig {
    double zeta = 1;
    TESSERA_FIELDS(f)
    {
      smooth_fields(f);
      f("zeta", zeta, "weight of the loss against codes that are no expert's").min(0);
    }
  };
  Linear codes;     // output t m + j is bit j of selector t
  Linear selector;  // ω
  std::optional<PermutationSearch> search;

  DSelectK(const Config& c, const GateGeometry& g)
      : codes(Linear::uniform(g.width, g.k * bits_of(g.experts), true, c.gamma / 100)),
        selector(g.width, g.k),
        search(c.make_search(g)),
        c_(c),
        g_(g) {}

  GateResult operator()(const Tensor& x, const LayerContext& context, const Tensor&) override {
    const Tensor r = selections(x);
    if (training()) add_losses(r, context);
    const Tensor omega = softmax(selector(x).to(r.dtype()), -1);
    return {.weights = merged(r * unsqueeze(omega, 2), search, context),
            .dense = search && search->searching(context)};
  }
  TESSERA_MEMBERS(codes, selector, search)

 private:
  static int64_t bits_of(int64_t n) {
    return std::max<int64_t>(1, std::bit_width(static_cast<uint64_t>(n - 1)));
  }

  // r (T, k, n): every bit splits each prefix in two, 0 before 1.
  Tensor selections(const Tensor& x) const {
    const int64_t bits = bits_of(g_.experts);
    const Tensor y = codes(x);
    const Tensor s = reshape(smooth_step(is_half(y.dtype()) ? y.to(DType::f32) : y, c_.gamma),
                             {x.size(0), g_.k, bits});
    TensorList prefixes = {1 - select(s, 2, 0), select(s, 2, 0)};
    for (int64_t j = 1; j < bits; ++j) {
      const Tensor bit = select(s, 2, j);
      TensorList longer;
      for (const Tensor& p : prefixes) {
        const Tensor one = p * bit;
        longer.push_back(p - one);
        longer.push_back(one);
      }
      prefixes = std::move(longer);
    }
    prefixes.resize(static_cast<size_t>(g_.experts));
    return stack(prefixes, 2);
  }

  void add_losses(const Tensor& r, const LayerContext& context) const {
    if (c_.entropy > 0) context.add_loss(row_entropy(r) * c_.entropy);
    const bool every_code = std::has_single_bit(static_cast<uint64_t>(g_.experts));
    if (c_.zeta > 0 && !every_code) context.add_loss(sum(c_.zeta / (sum(r, {2}) + 1e-6)));
  }

  Config c_;
  GateGeometry g_;
};

TESSERA_REGISTER(Gate, Comet, "comet", "k soft decision trees over the experts",
                 "Ibrahim et al. 2023, COMET");
TESSERA_REGISTER(Gate, DSelectK, "dselect_k", "k soft binary codes of experts",
                 "Hazimeh et al. 2021, DSelect-k");

}  // namespace
}  // namespace tessera
