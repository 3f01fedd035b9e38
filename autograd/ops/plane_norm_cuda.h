// The kernels of batch and group norm on CUDA, and the planes that they walk.
#pragma once

#include <string_view>

#include "tessera/core/tensor.h"

namespace tessera::detail {

// x (B, C, …) is B · C planes of `plane` values, one per sample and channel. A unit is the planes
// that are normalised together: unit · unit_step + i · plane_step for i < planes.
struct PlaneUnits {
  int64_t count, planes, unit_step, plane_step;
  int64_t channels, plane;
  bool grouped;  // the planes of a unit are channels of one sample, else samples of one channel

  int64_t index(int64_t unit, int64_t i) const { return unit * unit_step + i * plane_step; }
  double values() const { return static_cast<double>(planes * plane); }
};

// x, grad and results dense; mean and variance per unit; weight, bias, gw and gb may be absent.
void plane_norm_cuda(std::string_view op, const PlaneUnits& units, double eps, const Tensor& x,
                     const Tensor& weight, const Tensor& bias, const Tensor& y, const Tensor& mean,
                     const Tensor& variance);
void plane_norm_backward_cuda(std::string_view op, const PlaneUnits& units, double eps,
                              const Tensor& x, const Tensor& weight, const Tensor& grad,
                              const Tensor& mean, const Tensor& variance, const Tensor& gx,
                              const Tensor& gw, const Tensor& gb);

}  // namespace tessera::detail
