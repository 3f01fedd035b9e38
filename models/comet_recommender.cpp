#include "tessera/models/comet_recommender.h"

#include <cmath>

#include "tessera/autograd/ops/activation.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/grouped_matmul.h"
#include "tessera/autograd/ops/matmul.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/nn/init.h"
#include "tessera/nn/moe.h"

namespace tessera {
namespace {

TESSERA_REGISTER(Model, CometRecommender, "comet_recommender",
                 "multi-gate mixture of experts: what a user watches, and how it is rated",
                 "Ibrahim et al. 2023, COMET; Ma et al. 2018, MMoE");

double glorot(int64_t in, int64_t out) {
  return std::sqrt(6.0 / static_cast<double>(in + out));
}

}  // namespace

CometRecommender::Head::Head(int64_t width)
    : hidden(Linear::glorot(width, width)), output(Linear::glorot(width, 1)) {}

Tensor CometRecommender::Head::operator()(const Tensor& x) const {
  return squeeze(output(relu(hidden(x))), 1);
}

CometRecommender::CometRecommender(const Config& c, const DataInfo& in)
    : users(in.users, c.embedding),
      items(in.items, c.embedding),
      weight(parameter(
          init::uniform({c.experts, 2 * c.embedding, c.width}, glorot(2 * c.embedding, c.width)))),
      bias(parameter(init::constant({c.experts, c.width}, 0))),
      drop(c.dropout),
      k_(c.k) {
  check(in.users > 0 && in.items > 0,
        "comet_recommender: wants users and items, but the data has {} and {}", in.users, in.items);
  check(c.k <= c.experts, "model.k: {} of {} experts cannot be chosen", c.k, c.experts);
  const GateGeometry g{.width = 2 * c.embedding, .experts = c.experts, .k = c.k, .ids = in.users};
  for (int task = 0; task < 2; ++task) {
    gates.push_back(c.gate.build(g));
    heads.push_back(std::make_unique<Head>(c.width));
  }
}

Recommender::Scores CometRecommender::scores(const Tensor& user, const Tensor& item,
                                             const ForwardContext& context) {
  const Tensor h = concat({users(user), items(item)}, 1);
  std::vector<GateResult> results;
  for (const auto& gate : gates) {
    results.push_back((*gate)(h, context.layer, user));
    probe("weights", results.back().weights);
    if (context.layer.watched() && !training()) {
      add_gate_figures(results.back().weights.detach(), k_, context.layer);
    }
  }
  const TensorList y = mixtures(h, results);
  return {(*heads[0])(y[0]), (*heads[1])(y[1])};
}

TensorList CometRecommender::mixtures(const Tensor& h,
                                      const std::vector<GateResult>& results) const {
  bool dense = false;
  Tensor any;
  for (const GateResult& r : results) {
    dense = dense || r.dense;
    any = any.defined() ? any + r.weights.detach() : r.weights.detach();
  }
  TensorList mixed;
  if (dense) {
    const Tensor y = drop(relu(matmul(unsqueeze(h, 0), weight) + unsqueeze(bias, 1)));
    for (const GateResult& r : results) mixed.push_back(combine_all(y, r.weights));
    return mixed;
  }
  const Dispatch d = dispatch(any);
  const Tensor y = drop(relu(grouped_matmul(gather_rows(h, d), weight, d.offsets, bias)));
  for (const GateResult& r : results) mixed.push_back(combine(y, d, r.weights));
  return mixed;
}

}  // namespace tessera
