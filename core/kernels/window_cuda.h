// Unfolding and folding on a CUDA device.
#pragma once

#include "tessera/core/kernels/window.h"
#include "tessera/core/tensor.h"

namespace tessera::kernels {

// x (B, C, window.in…), dense; columns (B, C · taps, positions) with unit stride in the last
// dimension, any other strides; one dtype. Zero in the padding.
void unfold_cuda(const Window& window, const Tensor& x, const Tensor& columns);
// The adjoint, written to x (floating). Every element adds what it is given by rising taps, halves
// in f32.
void fold_cuda(const Window& window, const Tensor& columns, const Tensor& x);

}  // namespace tessera::kernels
