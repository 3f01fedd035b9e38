#include "tessera/nn/moe.h"

#include <cmath>

#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/comparison.h"
#include "tessera/autograd/ops/elementwise.h"
#include "tessera/autograd/ops/matmul.h"
#include "tessera/autograd/ops/reduce.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/tape.h"
#include "tessera/config/error.h"

namespace tessera {
namespace {

TESSERA_REGISTER(FeedForward, Moe, "moe", "mixture of experts: only the chosen ones are computed",
                 "Shazeer et al. 2017; Fedus et al. 2021, Switch Transformers");

int64_t rows_per_expert(double factor, int64_t k, int64_t rows, int64_t experts) {
  const auto even = static_cast<double>(k * rows) / static_cast<double>(experts);
  return std::max<int64_t>(1, static_cast<int64_t>(std::ceil(factor * even)));
}

Tensor dropped_share(const Dispatch& d, const Tensor& weights) {
  const DType dtype = weights.dtype();
  const Tensor chosen = sum(gt(weights, 0).to(dtype));
  return 1 - select(d.offsets, 0, d.offsets.numel() - 1).to(dtype) / chosen;
}

}  // namespace

void Moe::Config::validate(const std::string& path) const {
  if (k > experts) config_fail(path, "k = {} of {} experts cannot be chosen", k, experts);
}

Moe::Moe(const Config& c, const FeedForwardGeometry& g)
    : gate(c.gate.build(GateGeometry{.width = g.width, .experts = c.experts, .k = c.k})),
      experts(c, g, c.experts),
      drop(g.dropout),
      c_(c) {}

Tensor Moe::operator()(const Tensor& x, const LayerContext& context) {
  const Tensor rows = flatten(x, 0, -2);
  const bool ids = context.tokens.defined() && context.tokens.numel() == rows.size(0);
  const GateResult g = (*gate)(rows, context, ids ? flatten(context.tokens) : Tensor());
  probe("gate_weights", g.weights);
  const bool watched = context.watched() && !training();
  if (watched) add_gate_figures(g.weights.detach(), c_.k, context);
  add_losses(g, context);
  Tensor y;
  if (g.dense && !c_.capacity) {
    y = combine_all(experts.all(rows), g.weights);
  } else {
    std::optional<int64_t> capacity;
    if (c_.capacity) capacity = rows_per_expert(*c_.capacity, c_.k, rows.size(0), c_.experts);
    const Dispatch d = dispatch(g.weights, g.indices, capacity);
    if (watched && capacity) context.add_figure("dropped", dropped_share(d, g.weights.detach()));
    y = combine(experts.rows(gather_rows(rows, d), d.offsets), d, g.weights);
  }
  return drop(reshape(y, x.shape()));
}

void Moe::add_losses(const GateResult& g, const LayerContext& context) const {
  if (c_.balance_loss > 0) {
    const Tensor p = mean(g.probabilities.defined() ? g.probabilities : g.weights, {0});
    const double scale = c_.balance_loss * static_cast<double>(c_.experts);
    context.add_loss(sum(expert_load(g.weights.detach()) * p) * scale);
  }
  if (c_.z_loss > 0) {
    check(g.logits.defined(), "moe: the gate \"{}\" has no logits for a z_loss", c_.gate.type());
    context.add_loss(mean(square(logsumexp(g.logits, {-1}))) * c_.z_loss);
  }
}

Tensor combine_all(const Tensor& y, const Tensor& weights) {
  const Tensor w = unsqueeze(weights.to(y.dtype()), 1);  // (T, 1, n)
  return squeeze(matmul(w, contiguous(transpose(y, 0, 1))), 1);
}

Tensor expert_load(const Tensor& weights) {
  const Tensor chosen = gt(weights, 0).to(weights.dtype());
  return sum(chosen, {0}) / sum(chosen);
}

void add_gate_figures(const Tensor& weights, int64_t k, const LayerContext& context) {
  NoGrad off;
  const Tensor used = sum(gt(weights, 1e-5).to(weights.dtype()), {1});
  context.add_figure("expert_load", expert_load(weights));
  context.add_figure("gate_entropy", row_entropy(weights));
  context.add_figure("experts_used", mean(used));
  context.add_figure("within_k", mean(le(used, static_cast<double>(k)).to(weights.dtype())));
}

}  // namespace tessera
