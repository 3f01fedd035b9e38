// Gradients that are not the derivative: stop_gradient, straight-through, and recomputation.
#pragma once

#include <functional>

#include "tessera/core/tensor.h"

namespace tessera {

// The same values; no gradient flows back.
Tensor stop_gradient(const Tensor& x);

// The value of `hard`, the gradient of `soft` (Bengio et al. 2013, "Estimating or Propagating
// Gradients Through Stochastic Neurons"). Same shapes; `hard` receives no gradient.
Tensor straight_through(const Tensor& hard, const Tensor& soft);

// fn(inputs) without keeping what its ops save: backward runs fn again, with the same random
// numbers. Parameters that fn captures receive their gradients as usual. Not for create_graph.
using Segment = std::function<TensorList(const TensorList& inputs)>;
TensorList checkpoint(const Segment& fn, const TensorList& inputs);

// True while a checkpointed segment runs for the second time: buffers that learn without gradients
// (batch statistics, centroids) must not be updated again.
bool recomputing();

}  // namespace tessera
