// Pooling over the spatial dimensions of x (B, C, spatial…), any number of them. f32 and f64, on
// CUDA the halves too.
#pragma once

#include "tessera/core/tensor.h"

namespace tessera {

// Lists hold one value per spatial dimension or one for all; empty: stride = kernel, padding 0,
// dilation 1. Padding is at most half of the kernel.
struct AvgPoolOptions {
  Shape stride = {};
  Shape padding = {};
  bool count_include_pad = true;  // whether the zeros of the padding count in the mean
};
struct MaxPoolOptions {
  Shape stride = {};
  Shape padding = {};
  Shape dilation = {};
};

// Means over windows → (B, C, out…), out = ⌊(in + 2 padding − kernel) / stride⌋ + 1.
// Differentiable any number of times.
Tensor avg_pool(const Tensor& x, const Shape& kernel, const AvgPoolOptions& options = {});

// Maxima over windows and where they are: i64 indices into a flattened spatial plane. Ties go to
// the first element in row-major order; NaN wins. Differentiable any number of times through y.
struct MaxPoolResult {
  Tensor y;
  Tensor index;
};
MaxPoolResult max_pool_with_index(const Tensor& x, const Shape& kernel,
                                  const MaxPoolOptions& options = {});
Tensor max_pool(const Tensor& x, const Shape& kernel, const MaxPoolOptions& options = {});

// Windows ⌊i·in / out⌋ … ⌈(i + 1)·in / out⌉ for an output of `size` (one value per spatial
// dimension or one for all).
Tensor adaptive_avg_pool(const Tensor& x, const Shape& size);
MaxPoolResult adaptive_max_pool(const Tensor& x, const Shape& size);

Tensor global_avg_pool(const Tensor& x);  // the mean of every plane: (B, C)

}  // namespace tessera
