#include "tessera/attention/gpsa.h"

#include <cmath>

#include "tessera/attention/engines/dense.h"
#include "tessera/attention/engines/neighborhood.h"
#include "tessera/attention/heads.h"
#include "tessera/attention/self_attention.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/elementwise.h"
#include "tessera/autograd/ops/matmul.h"
#include "tessera/autograd/ops/reduce.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/tape.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/nn/init.h"

namespace tessera {
namespace {

TESSERA_REGISTER(Attention, GpsaAttention, "gpsa",
                 "gated positional attention: content and position, mixed by a gate per head",
                 "d'Ascoli et al. 2021, ConViT");

Tensor offset_features(int64_t rows, int64_t columns) {
  std::vector<double> values;
  for (int64_t dy = 1 - rows; dy < rows; ++dy) {
    for (int64_t dx = 1 - columns; dx < columns; ++dx) {
      for (int64_t r : {dx, dy, dx * dx + dy * dy}) values.push_back(static_cast<double>(r));
    }
  }
  return from_values(values, {(2 * rows - 1) * (2 * columns - 1), 3});
}

}  // namespace

void GpsaAttention::capabilities(Capabilities& c) {
  c.unsupported(capability::kCausal, "its positions are places of a grid, which has no direction");
  c.unsupported(capability::kSequence, "its positions are places of a grid");
  c.unsupported(capability::kCache, "its positions are places of a whole grid");
  c.unsupported(capability::kLengths, "its positions are places of a whole grid");
}

GpsaAttention::GpsaAttention(const Config& c, const Geometry& g)
    : qk(Linear::truncated_normal(g.width, 2 * g.width, c.qkv_bias, g.init_std)),
      value(Linear::truncated_normal(g.width, g.width, c.qkv_bias, g.init_std)),
      out(Linear::truncated_normal(g.width, g.width, g.bias, g.output_init_std)),
      position(Linear::truncated_normal(3, g.heads, true, g.init_std)),
      gate(parameter(init::constant({g.heads}, c.gate_init))),
      heads_(g.heads),
      first_gate_(1 / (1 + std::exp(-c.gate_init))),
      rows_(g.grid_height),
      columns_(g.grid_width) {
  require_grid_alone("gpsa", g);
  check(g.width % heads_ == 0 && (g.head_dim == 0 || g.head_dim * heads_ == g.width),
        "gpsa: heads {} of width {} do not fill the width {}", heads_, g.head_dim, g.width);
  offsets_ = Constant(offset_features(rows_, columns_));
  whole_ = shifted_windows({rows_, columns_}, {rows_, columns_});
  if (c.local_init) start_local(c.locality_strength);
}

void GpsaAttention::start_local(double strength) {
  kernels::copy(value.weight, eye(value.weight.size(0)));
  const auto m = static_cast<int64_t>(std::sqrt(static_cast<double>(heads_)));
  const double centre = static_cast<double>(m - 1) / 2;
  std::vector<double> w = position.weight.to_vector<double>();
  for (int64_t h = 0; h < m * m; ++h) {
    const auto at = static_cast<size_t>(3 * h);
    w[at] = 2 * (static_cast<double>(h / m) - centre);
    w[at + 1] = 2 * (static_cast<double>(h % m) - centre);
    w[at + 2] = -1;
  }
  for (double& x : w) x *= strength;
  kernels::copy(position.weight, from_values(w, {heads_, 3}));
}

Tensor GpsaAttention::position_scores() const {
  const DType exact = position.weight.dtype() == DType::f64 ? DType::f64 : DType::f32;
  const Tensor r = kernels::cast(offsets_.on(position.weight.device()), exact);
  const Tensor s = linear(r, position.weight.to(exact), position.bias.to(exact));
  return contiguous(reshape(transpose(s, 0, 1), {heads_, 2 * rows_ - 1, 2 * columns_ - 1}));
}

// v (B, H, N, d) as one batch whose values are those of all images.
Tensor GpsaAttention::attend_positions(const Tensor& v) const {
  const int64_t batch = v.size(0), tokens = v.size(2), head_dim = v.size(3);
  const Tensor none =
      expand(zeros({1, 1, tokens, 1}, {v.dtype(), v.device()}), {1, heads_, tokens, 1});
  const Tensor all = reshape(permute(v, {1, 2, 0, 3}), {1, heads_, tokens, batch * head_dim});
  const Score score = grid_bias(position_scores(), whole_);
  const Tensor o = dense_attention(none, none, all, {.score = score}).output;
  return permute(reshape(o, {heads_, tokens, batch, head_dim}), {2, 0, 1, 3});
}

Tensor GpsaAttention::mixed(const Tensor& q, const Tensor& k, const Tensor& v,
                            const Score& score) const {
  const Tensor content = dense_attention(q, k, v, {.score = score}).output;
  const Tensor places = attend_positions(v);
  const DType exact = gate.dtype() == DType::f64 ? DType::f64 : DType::f32;
  const Tensor g = reshape(sigmoid(gate.to(exact)), {1, heads_, 1, 1});
  return content * affine(g, -1, 1).to(v.dtype()) + places * g.to(v.dtype());
}

void GpsaAttention::watch(const LayerContext& layer) const {
  const NoGrad off;
  const Tensor g = sigmoid(gate.to(DType::f32));
  layer.add_figure("gate", g);
  layer.add_figure("gate_moved", abs(mean(g) - first_gate_));
}

Tensor GpsaAttention::operator()(const Tensor& x, const AttentionContext& context) {
  check(!context.causal && context.cache == nullptr && !context.lengths.defined(),
        "gpsa: attends over whole grids: not causally, not through a cache, not up to lengths");
  check(x.size(1) == rows_ * columns_, "gpsa: {} tokens are not the {} x {} patches of its grid",
        x.size(1), rows_, columns_);
  const TensorList parts = chunk(qk(x), 2, -1);
  Tensor q = split_heads(parts[0], heads_), k = split_heads(parts[1], heads_);
  const Tensor v = split_heads(value(x), heads_);
  Score score;
  if (context.encoding != nullptr) {
    q = context.encoding->rotate(q, context.positions);
    k = context.encoding->rotate(k, context.positions);
    score = score_of(*context.encoding, x.device());
  }
  if (!training() && context.layer.watched()) watch(context.layer);
  if (WeightsScope::is_open()) {
    probe("weights", mixed(q, k, WeightsScope::values(k), score));
  }
  return out(merge_heads(mixed(q, k, v, score)));
}

}  // namespace tessera
