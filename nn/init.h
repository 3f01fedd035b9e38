// Initial values of parameters, drawn from the innermost RandomScope.
#pragma once

#include "tessera/core/tensor.h"

namespace tessera::init {

Tensor normal(const Shape& shape, double stddev, double mean = 0);
// Normal values, redrawn until they lie within ±limit (absolute, default 2: with the usual 0.02
// practically uncut).
Tensor truncated_normal(const Shape& shape, double stddev, double limit = 2);
Tensor uniform(const Shape& shape, double bound);  // in [−bound, bound)
Tensor constant(const Shape& shape, double value);
// Glorot & Bengio 2010: uniform ±sqrt(6 / (fan_in + fan_out)) for a weight (out, in, …).
Tensor xavier_uniform(const Shape& shape);
// He et al. 2015, with the gain for ReLU: normal of deviation sqrt(2 / fan_in).
Tensor kaiming_normal(const Shape& shape);
// The usual default of linear and convolution layers: uniform ±1/sqrt(fan_in).
Tensor fan_in_uniform(const Shape& shape, int64_t fan_in);
// A random (out, in) matrix with orthonormal rows or columns (Saxe et al. 2014).
Tensor orthogonal(int64_t rows, int64_t columns, double gain = 1);

}  // namespace tessera::init
