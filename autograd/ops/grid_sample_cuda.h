// Reading images at points on a CUDA device. All tensors are dense; halves compute in f32.
#pragma once

#include "tessera/autograd/ops/grid_sample.h"

namespace tessera {

void grid_sample_cuda(const GridSampleOptions& options, const Tensor& x, const Tensor& grid,
                      const Tensor& y);
// The corners of all points are sorted by their pixel, so that sums have one order.
Tensor grid_sample_image_gradient_cuda(const GridSampleOptions& options, const Tensor& x,
                                       const Tensor& grid, const Tensor& gy);
Tensor grid_sample_point_gradient_cuda(const GridSampleOptions& options, const Tensor& x,
                                       const Tensor& grid, const Tensor& gy);

// What the definition takes as constant for the points of an f64 grid (…, 2): pixels (…, 4) and,
// per coordinate (…, 2), the place between them, slope · coordinate + shift.
struct GridCornersCuda {
  Tensor index;
  Tensor slope;
  Tensor shift;
};
GridCornersCuda grid_corners_cuda(const GridSampleOptions& options, int64_t height, int64_t width,
                                  const Tensor& grid);

}  // namespace tessera
