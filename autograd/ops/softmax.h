// Normalised exponentials along a dimension.
#pragma once

#include "tessera/core/tensor.h"

namespace tessera {

// y = exp(x) / Σ exp(x) along dim, shifted by the maximum. Entries −∞ get 0; a row of nothing but
// −∞ gives zeros with zero gradient. f32, f64 or, on
// CUDA, a half. Differentiable any number of times.
Tensor softmax(const Tensor& x, int64_t dim);

// y = x − log Σ exp(x) along dim; a row of nothing but −∞ stays so, with zero gradient.
// Differentiable any number of times.
Tensor log_softmax(const Tensor& x, int64_t dim);

}  // namespace tessera
