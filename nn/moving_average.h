// Moving averages as layers.
#pragma once

#include "tessera/nn/module.h"

namespace tessera {

// The multi-dimensional damped exponential moving average (Ma et al. 2022, "Mega", section 3.1): a
// diagonal state space of N dimensions per channel,
//     h_t = q ⊙ h_{t−1} + p β x_t,   m_t = Σ_n γ_n h_{t,n} / √N + ω x_t,
//     p = σ(δ), q = 1 − p σ(α)   in (0, 1),
// which is the convolution m_t = Σ_{s ≤ t} κ[t − s] x_s + ω x_t with κ[l] = Σ_n γ p β q^l / √N. In
// both directions a second set of parameters looks at s ≥ t, lag 0 counted in both. One direction
// is computed in chunks that hand on h: no bit of m_t depends on a later token. Both directions,
// and a κ that is cut off, are convolutions by Fourier transforms. Everything in f32 at least.
struct DampedEma : Module {
  Tensor delta, alpha, beta, gamma;  // (D, N); in both directions (2 D, N), forward ones first
  Tensor omega;                      // (D)

  // truncation: κ has only so many taps; 0: as many as there are tokens.
  DampedEma(int64_t width, int64_t dims, bool bidirectional = false, int64_t truncation = 0);
  // x (B, L, D) → (B, L, D). Tokens outside of `valid` (bool (B, L), optional) are 0 to others.
  Tensor operator()(const Tensor& x, const Tensor& valid = {}) const;
  // The same for tokens that follow a state h (B, D, N), undefined for none; `state` becomes the
  // one after them. One direction and no truncation only.
  Tensor step(const Tensor& x, Tensor& state) const;
  TESSERA_MEMBERS(delta, alpha, beta, gamma, omega)

  struct Coefficients {
    Tensor input, log_decay, output;  // pβ, log q and γ / √N, (D, N)
  };

 private:
  Coefficients coefficients() const;
  Tensor convolved(const Tensor& x) const;
  bool bidirectional_;
  int64_t truncation_;
};

}  // namespace tessera
