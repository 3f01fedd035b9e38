// The three products of convolution on a CUDA device: see conv_kernels.h.
#pragma once

#include "tessera/autograd/ops/conv_kernels.h"

namespace tessera::kernels {

// All floating dtypes, halves with f32 sums. Windows become columns, a few samples at a time (256
// MiB, or one sample), then one product per group or chunk; the identity window reads x where it
// lies; depthwise ones are direct. The same bits every time.
Tensor conv_cuda(const ConvPlan& plan, const Tensor& x, const Tensor& w, const Tensor& bias);
Tensor conv_input_cuda(const ConvPlan& plan, const Tensor& y, const Tensor& w);
Tensor conv_weight_cuda(const ConvPlan& plan, const Tensor& x, const Tensor& y);

}  // namespace tessera::kernels
