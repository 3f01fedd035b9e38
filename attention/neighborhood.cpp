#include "tessera/attention/neighborhood.h"

#include <algorithm>

#include "tessera/attention/engines/neighborhood.h"
#include "tessera/attention/heads.h"
#include "tessera/nn/init.h"

namespace tessera {
namespace {

TESSERA_REGISTER(Attention, NeighborhoodLayer, "neighborhood",
                 "every patch of a grid sees a window around it", "Hassani et al. 2023, NAT");

// Windows no larger than what fits an axis.
WindowRule windows_of(const NeighborhoodLayer::Config& c, const Geometry& g) {
  Neighborhood n{.shape = {g.grid_height, g.grid_width}, .window = {}};
  for (const int64_t size : n.shape) {
    n.dilation.push_back(std::min(c.dilation, size));
    const int64_t most = size / n.dilation.back();  // and odd, as biases by relative place want it
    n.window.push_back(std::min(c.window, most % 2 == 1 ? most : most - 1));
  }
  return neighborhood_windows(n);
}

}  // namespace

void NeighborhoodLayer::capabilities(Capabilities& c) {
  c.unsupported(capability::kCausal, "a window around a place of a grid has no direction");
  c.unsupported(capability::kSequence, "its windows lie on a grid");
  c.unsupported(capability::kCache, "its windows lie on a whole grid");
  c.unsupported(capability::kLengths, "its windows lie on a whole grid");
  c.unsupported(capability::kScoreBias, "scores have a bias by relative place instead");
}

NeighborhoodLayer::NeighborhoodLayer(const Config& c, const Geometry& g)
    : SelfAttention("neighborhood", c, g) {
  require_grid_alone("neighborhood", g);
  check(!c.position_bias || c.window % 2 == 1,
        "neighborhood: a window of {} is even; with position_bias it must be odd", c.window);
  windows_ = windows_of(c, g);
  if (!c.position_bias) return;
  bias = parameter(init::truncated_normal(
      {g.heads, 2 * windows_.axis[1].window - 1, 2 * windows_.axis[2].window - 1}, g.init_std));
}

void NeighborhoodLayer::members(Members& m) {
  SelfAttention::members(m);
  m("bias", bias);
}

AttentionResult NeighborhoodLayer::attend(const Tensor& q, const Tensor& k, const Tensor& v,
                                          const AttentionOptions& options,
                                          const AttentionContext& context) {
  check(!options.causal && !options.key_lengths.defined() && context.cache == nullptr &&
            options.score.is_identity(),
        "neighborhood: attends on whole grids: not causally, not through a cache, not up to "
        "lengths, without biases of positions");
  check(q.size(2) == windows_.queries(), "neighborhood: {} tokens are not the {} x {} patches",
        q.size(2), windows_.axis[1].queries, windows_.axis[2].queries);
  NeighborhoodOptions o{.windows = windows_};
  const bool half = is_half(q.dtype());
  if (bias.defined()) o.score = grid_bias(half ? bias.to(DType::f32) : bias, windows_);
  return neighborhood_attention(q, k, v, o);
}

}  // namespace tessera
