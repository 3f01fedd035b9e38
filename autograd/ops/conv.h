// Convolution (cross-correlation, as everywhere in the field) and its transpose in one, two and
// three dimensions. f32 and f64, on CUDA the halves too; differentiable any number of times.
#pragma once

#include "tessera/core/tensor.h"

namespace tessera {

// One value per spatial dimension, or one for all; empty: stride 1, padding 0, dilation 1.
struct ConvOptions {
  Shape stride = {};
  Shape padding = {};  // zeros on both sides
  Shape dilation = {};
  int64_t groups = 1;
};

// y[b, o, p] = bias[o] + Σ_{c, k} weight[o, c, k] · x[b, group(o) + c, p · stride + k · dilation −
// padding]. x (B, C, in…), weight (O, C / groups, kernel…), bias (O) or undefined → (B, O, out…)
// with out = ⌊(in + 2 padding − dilation (kernel − 1) − 1) / stride⌋ + 1.
// Blocks of columns that fit the cache, then GEMM; 1 × 1 kernels read x where it lies, depthwise
// ones (C = groups) are direct loops. Sums over the batch have a fixed order.
Tensor conv1d(const Tensor& x, const Tensor& weight, const Tensor& bias = {},
              const ConvOptions& options = {});
Tensor conv2d(const Tensor& x, const Tensor& weight, const Tensor& bias = {},
              const ConvOptions& options = {});
Tensor conv3d(const Tensor& x, const Tensor& weight, const Tensor& bias = {},
              const ConvOptions& options = {});

struct ConvTransposeOptions {
  Shape stride = {};
  Shape padding = {};
  Shape output_padding = {};  // below stride: which of the sizes that convolve to x's is meant
  Shape dilation = {};
  int64_t groups = 1;
};

// The adjoint of the convolution with the same options, plus bias: x (B, C, in…), weight
// (C, O / groups, kernel…), bias (O) → (B, O, out…) with
// out = (in − 1) stride − 2 padding + dilation (kernel − 1) + output_padding + 1.
Tensor conv_transpose1d(const Tensor& x, const Tensor& weight, const Tensor& bias = {},
                        const ConvTransposeOptions& options = {});
Tensor conv_transpose2d(const Tensor& x, const Tensor& weight, const Tensor& bias = {},
                        const ConvTransposeOptions& options = {});
Tensor conv_transpose3d(const Tensor& x, const Tensor& weight, const Tensor& bias = {},
                        const ConvTransposeOptions& options = {});

}  // namespace tessera
