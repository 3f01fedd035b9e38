#include "tessera/nn/ista.h"

#include <cmath>

#include "tessera/autograd/ops/activation.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/comparison.h"
#include "tessera/autograd/ops/matmul.h"
#include "tessera/autograd/ops/reduce.h"
#include "tessera/autograd/tape.h"
#include "tessera/nn/init.h"

namespace tessera {
namespace {

TESSERA_REGISTER(FeedForward, Ista, "ista", "sparse codes by one proximal step, without a residual",
                 "Yu et al. 2023, CRATE");
TESSERA_REGISTER(FeedForward, OvercompleteLasso, "crate_alpha",
                 "sparse codes over an overcomplete dictionary by two steps, with a residual",
                 "Yang et al. 2024, CRATE-α");

// He et al. 2015 without the gain of a leaky slope: what fan_in entries of a row would want.
Tensor kaiming_uniform(int64_t rows, int64_t columns) {
  return init::uniform({rows, columns}, std::sqrt(6.0 / static_cast<double>(columns)));
}

int64_t atoms_of(const OvercompleteLasso::Config& c, int64_t width) {
  return std::llround(c.ratio * static_cast<double>(width));
}

// max(0, a + η g − η λ)
Tensor proximal_step(const Tensor& a, const Tensor& g, const ShrinkageConfig& c) {
  return relu(a + affine(g, c.eta, -c.eta * c.lambda));
}

// The share of entries that live, for evaluation.
void watch(const Tensor& codes, const LayerContext& context, bool training) {
  if (training || !context.watched()) return;
  const NoGrad off;
  context.add_figure("nonzeros", mean(ne(codes, 0).to(DType::f32)));
}

}  // namespace

Ista::Ista(const Config& c, const FeedForwardGeometry& g)
    : dictionary(parameter(kaiming_uniform(g.width, g.width))), c_(c) {}

Tensor Ista::operator()(const Tensor& y, const LayerContext& context) {
  const Tensor rest = y - linear(y, dictionary);  // rows: y − D y
  const Tensor z = proximal_step(y, matmul(rest, dictionary), c_);
  probe("codes", z);
  watch(z, context, training());
  return z;
}

OvercompleteLasso::OvercompleteLasso(const Config& c, const FeedForwardGeometry& g)
    : dictionary(parameter(kaiming_uniform(g.width, atoms_of(c, g.width)))),
      output(parameter(kaiming_uniform(g.width, atoms_of(c, g.width)))),
      drop(g.dropout),
      c_(c) {}

Tensor OvercompleteLasso::operator()(const Tensor& y, const LayerContext& context) {
  const Tensor a1 = relu(affine(matmul(y, dictionary), c_.eta, -c_.eta * c_.lambda));
  const Tensor rest = y - linear(a1, dictionary);
  const Tensor a2 = proximal_step(a1, matmul(rest, dictionary), c_);
  probe("codes", a2);
  watch(a2, context, training());
  return drop(linear(a2, output));
}

}  // namespace tessera
