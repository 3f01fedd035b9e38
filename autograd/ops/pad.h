// Padding and rotation of tensors.
#pragma once

#include "tessera/core/tensor.h"

namespace tessera {

enum class PadMode {
  constant,
  reflect,    // c b | a b c | b a: the edge is not repeated
  replicate,  // a a | a b c | c c
  circular    // b c | a b c | a b
};

// Pads the last dimensions of x: `pairs` holds (before, after) of the last one, then of the one
// before it, and so on (PyTorch's order); negative numbers crop. `value` fills in constant mode.
// reflect needs padding below the size, circular at most the size. f32 and f64, on CUDA the
// halves too (constant: every dtype); differentiable any number of times.
Tensor pad(const Tensor& x, const Shape& pairs, PadMode mode = PadMode::constant, double value = 0);

// y[(i + shift) mod size] = x[i] along each of `dims`. Copies; differentiable any number of times.
Tensor roll(const Tensor& x, const Shape& shifts, const Shape& dims);

}  // namespace tessera
