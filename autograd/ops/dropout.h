// Random thinning, from counters: no mask is stored, backward draws the same numbers again.
#pragma once

#include "tessera/core/tensor.h"

namespace tessera {

// In training: y = x / (1 − p) with probability 1 − p, else 0, independently per element
// (Srivastava et al. 2014); p is rounded to 16 bits. Otherwise x itself. The numbers come from
// RandomScope::next_key(). Throws unless 0 ≤ p < 1. Differentiable any number of times.
Tensor dropout(const Tensor& x, double p, bool training = true);

// The same with one draw per sample, the first dimension of x (Huang et al. 2016, "Deep Networks
// with Stochastic Depth"): a residual branch is kept or left out.
Tensor drop_path(const Tensor& x, double rate, bool training = true);

// softmax((x + noise) / tau) along dim with Gumbel noise: a relaxed sample of softmax(x) (Jang et
// al. 2017; Maddison et al. 2017). hard: the one-hot of its maximum with the gradient of the
// relaxed one. Throws unless tau > 0. Differentiable any number of times.
Tensor gumbel_softmax(const Tensor& x, double tau = 1, bool hard = false, int64_t dim = -1);

}  // namespace tessera
