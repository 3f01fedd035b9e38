// Reading an image at given points.
#pragma once

#include "tessera/autograd/ops/interpolate.h"
#include "tessera/core/tensor.h"

namespace tessera {

enum class GridPadding { zeros, border, reflection };

struct GridSampleOptions {
  Interpolation mode = Interpolation::bilinear;  // or nearest
  GridPadding padding = GridPadding::zeros;      // what lies outside the image
  bool align_corners =
      false;  // whether ±1 are the centres of the edge pixels, or their outer edges
};

// x (B, C, H, W), grid (B, Ho, Wo, 2) of points (x, y) in [−1, 1] → (B, C, Ho, Wo). Gradients reach
// x and, when bilinear, grid (none where a coordinate is clamped). f32 and f64, on
// CUDA the halves too; twice differentiable. Sums have one order everywhere, so bits repeat.
// Jaderberg et al. 2015, "Spatial Transformer Networks"; PyTorch's conventions.
Tensor grid_sample(const Tensor& x, const Tensor& grid, const GridSampleOptions& options = {});

}  // namespace tessera
