#include "tessera/nn/gru.h"

#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/elementwise.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/core/create.h"

namespace tessera {

Gru::Gru(int64_t in, int64_t hidden_width)
    : input(in, 3 * hidden_width), hidden(hidden_width, 3 * hidden_width) {}

// `projected` is W x + b, (B, 3 hidden).
Tensor Gru::advance(const Tensor& projected, const Tensor& state) const {
  const TensorList x = chunk(projected, 3, 1);
  const TensorList h = chunk(hidden(state), 3, 1);
  const Tensor reset = sigmoid(x[0] + h[0]);
  const Tensor keep = sigmoid(x[1] + h[1]);
  const Tensor fresh = tanh(x[2] + reset * h[2]);
  return fresh + keep * (state - fresh);
}

Tensor Gru::step(const Tensor& x, const Tensor& state) const {
  return advance(input(x), state);
}

Tensor Gru::operator()(const Tensor& x, const Tensor& state, bool reverse,
                       const Tensor& mask) const {
  check(x.rank() == 3, "gru: wants (B, N, in), got {}", x.shape());
  const int64_t steps = x.size(1);
  const Tensor projected = input(x);
  Tensor h =
      state.defined() ? state : zeros({x.size(0), hidden.weight.size(1)}, {x.dtype(), x.device()});
  TensorList outputs(static_cast<size_t>(steps));
  for (int64_t i = 0; i < steps; ++i) {
    const int64_t at = reverse ? steps - 1 - i : i;
    const Tensor next = advance(select(projected, 1, at), h);
    h = mask.defined() ? h + select(mask, 1, at) * (next - h) : next;
    outputs[static_cast<size_t>(at)] = h;
  }
  if (outputs.empty()) return zeros({x.size(0), 0, h.size(1)}, {x.dtype(), x.device()});
  return stack(outputs, 1);
}

}  // namespace tessera
