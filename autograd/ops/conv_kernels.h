// The three products of convolution. They are the partial derivatives of one trilinear
// form, Σ gy · conv(x, w), so each one's gradients are the other two.
#pragma once

#include "tessera/core/kernels/window.h"
#include "tessera/core/tensor.h"

namespace tessera::kernels {

// x (B, C, window.in…), w (O, C / groups, window.kernel…), y (B, O, window.out…), dense, f32 or
// f64 (on CUDA the halves too). The same bits for any number of threads.
struct ConvPlan {
  Window window;
  int64_t groups = 1;
};

Tensor conv(const ConvPlan& plan, const Tensor& x, const Tensor& w, const Tensor& bias);
Tensor conv_input(const ConvPlan& plan, const Tensor& y, const Tensor& w);   // ∂/∂x
Tensor conv_weight(const ConvPlan& plan, const Tensor& x, const Tensor& y);  // ∂/∂w

}  // namespace tessera::kernels
