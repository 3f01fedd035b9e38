#include "tessera/nn/feed_forward.h"

#include <cmath>

#include "tessera/autograd/ops/activation.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/mlp.h"

namespace tessera {
namespace {

TESSERA_REGISTER(FeedForward, Mlp, "mlp", "two matrices with a pointwise function between them",
                 "Vaswani et al. 2017");
TESSERA_REGISTER(FeedForward, Glu, "glu", "gated linear unit: one matrix gates another",
                 "Shazeer 2020");

int64_t hidden_width(const Mlp::Config& c, int64_t width) {
  return c.hidden.value_or(std::llround(c.ratio * static_cast<double>(width)));
}

int64_t hidden_width(const Glu::Config& c, int64_t width) {
  const auto wanted = static_cast<int64_t>(std::ceil(c.ratio * static_cast<double>(width)));
  return c.hidden.value_or((wanted + 7) / 8 * 8);
}

}  // namespace

Mlp::Mlp(const Config& c, const FeedForwardGeometry& g)
    : up(Linear::normal(g.width, hidden_width(c, g.width), g.bias, g.init_std)),
      down(Linear::normal(hidden_width(c, g.width), g.width, g.bias, g.output_init_std)),
      drop(g.dropout),
      phi(tessera::activation(c.activation)) {}

Tensor Mlp::operator()(const Tensor& x, const LayerContext&) {
  if (phi == static_cast<Activation>(gelu_tanh) && !probed()) {
    return drop(mlp(x, up.weight, up.bias, down.weight, down.bias));
  }
  const Tensor h = phi(up(x));
  probe("hidden", h);
  return drop(down(h));
}

Glu::Glu(const Config& c, const FeedForwardGeometry& g)
    : gate(Linear::normal(g.width, hidden_width(c, g.width), g.bias, g.init_std)),
      up(Linear::normal(g.width, hidden_width(c, g.width), g.bias, g.init_std)),
      down(Linear::normal(hidden_width(c, g.width), g.width, g.bias, g.output_init_std)),
      drop(g.dropout),
      phi(tessera::activation(c.activation)),
      fused_(c.activation == "silu") {}

Tensor Glu::operator()(const Tensor& x, const LayerContext&) {
  const Tensor h = fused_ ? swiglu(gate(x), up(x)) : phi(gate(x)) * up(x);
  probe("hidden", h);
  return drop(down(h));
}

}  // namespace tessera
