// Running sums, products and maxima along one dimension. Shapes stay; halves are computed in f32.
#pragma once

#include "tessera/autograd/ops/reduce.h"

namespace tessera {

// y[i] = Σ_{j ≤ i} x[j] along dim; j < i when exclusive; from the end when reverse. bool and u8
// become i64. Differentiable any number of times.
struct CumsumOptions {
  bool exclusive = false;
  bool reverse = false;
};
Tensor cumsum(const Tensor& x, int64_t dim, CumsumOptions options = {});

// y[i] = Π_{j ≤ i} x[j]. The gradient is exact with zeros: no division. Differentiable twice.
Tensor cumprod(const Tensor& x, int64_t dim);

// y[i] = max_{j ≤ i} x[j] and the index of the first such j; NaN wins. Differentiable any number of
// times in the values.
ValuesIndices cummax(const Tensor& x, int64_t dim);

// y[i] = log Σ_{j ≤ i} exp x[j] without overflow; −∞ while all are −∞, with zero gradient.
// Differentiable twice where no x is −∞.
Tensor logcumsumexp(const Tensor& x, int64_t dim);

}  // namespace tessera
