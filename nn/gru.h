// A gated recurrent unit over a sequence.
#pragma once

#include "tessera/nn/linear.h"

namespace tessera {

// r = σ(W_r x + U_r h), z = σ(W_z x + U_z h), n = tanh(W_n x + r ⊙ (U_n h)), h ← (1 − z) ⊙ n + z ⊙
// h (Cho et al. 2014, with the reset gate after the product). Both products carry biases; their
// rows are ordered r, z, n. x (B, N, in) → outputs (B, N, hidden).
struct Gru : Module {
  Linear input, hidden;

  Gru(int64_t in, int64_t hidden_width);
  // One step: x (B, in), state (B, hidden).
  Tensor step(const Tensor& x, const Tensor& state) const;
  // The whole sequence from `state` (zeros when undefined); `reverse` reads from the end, and where
  // mask (B, N, 1) is 0 the state stays as it is.
  Tensor operator()(const Tensor& x, const Tensor& state = {}, bool reverse = false,
                    const Tensor& mask = {}) const;
  TESSERA_MEMBERS(input, hidden)

 private:
  Tensor advance(const Tensor& projected, const Tensor& state) const;
};

}  // namespace tessera
