// The gates that score experts directly, or look them up.
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/elementwise.h"
#include "tessera/autograd/ops/indexing.h"
#include "tessera/autograd/ops/softmax.h"
#include "tessera/autograd/ops/sort.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/core/create.h"
#include "tessera/core/random.h"
#include "tessera/nn/gate.h"
#include "tessera/nn/linear.h"

namespace tessera {
namespace {

std::optional<PermutationSearch> make_search(const std::optional<SearchConfig>& c,
                                             const GateGeometry& g) {
  if (!c) return {};
  return PermutationSearch(*c, g.experts);
}

// Scores in f32 also from halves: a softmax over experts is small, and its errors route.
Tensor scores(const Linear& layer, const Tensor& x) {
  const Tensor y = layer(x);
  return is_half(y.dtype()) ? y.to(DType::f32) : y;
}

// l = x Wᵀ + β, in training optionally + N(0, 1) softplus(x W_nᵀ); the k largest stay and share
// their softmax. Which ones stay has no gradient; the logits that stay learn. Ties: the lower index
// first. Shazeer et al. 2017, "Outrageously Large Neural Networks".
struct TopK final : Gate {
  struct Config {
    bool noise = false;
    std::optional<SearchConfig> search;
    TESSERA_FIELDS(f)
    {
      f("noise", noise, "learned Gaussian noise on the scores in training");
      f("search", search, "local search over permutations of the experts");
    }
  };
  Linear score;
  std::optional<Linear> noise;
  std::optional<PermutationSearch> search;

  TopK(const Config& c, const GateGeometry& g)
      : score(g.width, g.experts), search(make_search(c.search, g)), k_(g.k) {
    if (c.noise) noise.emplace(g.width, g.experts, false);
  }

  GateResult operator()(const Tensor& x, const LayerContext& context, const Tensor&) override {
    Tensor logits = scores(score, x);
    if (noise && training()) {
      const Tensor jitter = randn(logits.shape(), logits.dtype(), logits.device());
      logits = logits + jitter * softplus(scores(*noise, x));
    }
    const auto [kept, indices] = topk(logits, k_);
    const Tensor none = zeros(logits.shape(), {logits.dtype(), logits.device()});
    const Tensor weights = scatter(none, 1, indices, softmax(kept, -1));
    return permuted({.weights = weights,
                     .indices = indices,
                     .probabilities = softmax(logits, -1),
                     .logits = logits},
                    search, context);
  }
  TESSERA_MEMBERS(score, noise, search)

 private:
  int64_t k_;
};

// softmax(x Wᵀ + β) over all experts; k is not used. Jacobs et al. 1991.
struct Softmax final : Gate {
  struct Config {
    std::optional<SearchConfig> search;
    TESSERA_FIELDS(f)
    { f("search", search, "local search over permutations of the experts"); }
  };
  Linear score;
  std::optional<PermutationSearch> search;

  Softmax(const Config& c, const GateGeometry& g)
      : score(g.width, g.experts), search(make_search(c.search, g)) {}

  GateResult operator()(const Tensor& x, const LayerContext& context, const Tensor&) override {
    const Tensor logits = scores(score, x);
    const Tensor weights = softmax(logits, -1);
    return permuted({.weights = weights, .dense = true, .logits = logits}, search, context);
  }
  TESSERA_MEMBERS(score, search)
};

// k experts of equal weight per id, drawn once: table[id mod size]. Nothing learns. Roller et al.
// 2021, "Hash Layers For Large Sparse Models".
struct Hash final : Gate {
  struct Config {
    std::optional<int64_t> table;
    std::optional<SearchConfig> search;
    TESSERA_FIELDS(f)
    {
      f("table", table, "entries; ids beyond share them; default: one per id, 4096 if unknown")
          .min(1)
          .max(1 << 24);
      f("search", search, "local search over permutations of the experts");
    }
  };
  Tensor table;  // i64 (entries, k)
  std::optional<PermutationSearch> search;

  Hash(const Config& c, const GateGeometry& g)
      : table(draw(c.table.value_or(g.ids > 0 ? g.ids : 4096), g)),
        search(make_search(c.search, g)),
        experts_(g.experts) {}

  GateResult operator()(const Tensor& x, const LayerContext& context, const Tensor& ids) override {
    check(ids.defined(), "gate hash: routes by ids, but this model gives its layers none");
    const Tensor size = full({}, static_cast<double>(table.size(0)), {DType::i64, ids.device()});
    const Tensor indices = index_select(table, 0, remainder(ids, size));
    const DType dtype = x.dtype() == DType::f64 ? DType::f64 : DType::f32;
    const double share = 1 / static_cast<double>(table.size(1));
    const Tensor weights = sum(one_hot(indices, experts_, dtype), {1}) * share;
    return permuted({.weights = weights, .indices = indices}, search, context);
  }

  void members(Members& m) override {
    m.buffer("table", table);
    m("search", search);
  }

 private:
  static Tensor draw(int64_t entries, const GateGeometry& g) {
    const RandomKey key = RandomScope::next_key();
    std::vector<int64_t> list;
    for (int64_t i = 0; i < entries; ++i) {
      const RandomKey own{mix(key.seed, key.stream), static_cast<uint64_t>(i)};
      for (int64_t j = 0; j < g.k; ++j) list.push_back(permuted_index(j, g.experts, own));
    }
    return from_values(list, {entries, g.k});
  }
  int64_t experts_;
};

TESSERA_REGISTER(Gate, TopK, "topk", "the k experts with the largest scores",
                 "Shazeer et al. 2017, Outrageously Large Neural Networks");
TESSERA_REGISTER(Gate, Softmax, "softmax", "all experts, weighted by a softmax",
                 "Jacobs et al. 1991, Adaptive Mixtures of Local Experts");
TESSERA_REGISTER(Gate, Hash, "hash", "experts drawn once for every id",
                 "Roller et al. 2021, Hash Layers For Large Sparse Models");

}  // namespace
}  // namespace tessera
