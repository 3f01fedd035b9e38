// Sliding windows as columns of a matrix, and their adjoint.
#pragma once

#include "tessera/core/tensor.h"

namespace tessera {

// One value per spatial dimension, or one for all; empty: stride 1, padding 0, dilation 1.
struct WindowOptions {
  Shape stride = {};
  Shape padding = {};
  Shape dilation = {};
};

// x (B, C, spatial…) → (B, C · Πkernel, L): column l holds the window at position l, channel by
// channel; zeros in the padding. Any number of spatial dimensions; `kernel` has one value each or
// one for all. f32 and f64, on CUDA the halves too; differentiable any number of times.
Tensor unfold(const Tensor& x, const Shape& kernel, const WindowOptions& options = {});

// The adjoint: adds columns (B, C · Πkernel, L) back into (B, C, size…). Overlaps are summed.
Tensor fold(const Tensor& columns, const Shape& size, const Shape& kernel,
            const WindowOptions& options = {});

}  // namespace tessera
