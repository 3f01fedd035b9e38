// Reductions over dimensions: statistics, extrema, products, norms.
//
// `dims` empty means all; negative ones count from the end; keep_dims leaves size 1 in place.
// Halves are computed in f32 (and returned as halves), integers become f32 unless stated.
#pragma once

#include "tessera/core/tensor.h"

namespace tessera {

struct ValuesIndices {
  Tensor values;
  Tensor indices;  // i64, along the dimension
};

// Σ x / n; NaN over no elements. Differentiable twice.
Tensor mean(const Tensor& x, const Shape& dims = {}, bool keep_dims = false);

// Σ (x − mean)² / (n − correction), two passes in f64; NaN unless n > correction. Differentiable
// twice.
Tensor var(const Tensor& x, const Shape& dims = {}, int64_t correction = 0, bool keep_dims = false);

// √var; its gradient is zero where it is zero. Differentiable twice.
Tensor stddev(const Tensor& x, const Shape& dims = {}, int64_t correction = 0,
              bool keep_dims = false);

// The greatest (least) entry along dim and where it stands: the first of equals; NaN wins in both.
// Any dtype, kept. Throws when dim has size 0. The gradient goes to that entry.
ValuesIndices max(const Tensor& x, int64_t dim, bool keep_dims = false);
ValuesIndices min(const Tensor& x, int64_t dim, bool keep_dims = false);
// The values alone, over several dimensions; the gradient goes to the first (row-major) of equals.
Tensor amax(const Tensor& x, const Shape& dims = {}, bool keep_dims = false);
Tensor amin(const Tensor& x, const Shape& dims = {}, bool keep_dims = false);
// The indices alone, i64.
Tensor argmax(const Tensor& x, int64_t dim, bool keep_dims = false);
Tensor argmin(const Tensor& x, int64_t dim, bool keep_dims = false);

// Π x; 1 over no elements; integers stay integers. Its gradient is exact with zeros. Differentiable
// twice.
Tensor prod(const Tensor& x, const Shape& dims = {}, bool keep_dims = false);

// log Σ exp x without overflow. A row of −∞ (or no entry) gives −∞, one with +∞ gives +∞, both with
// zero gradient. Differentiable twice.
Tensor logsumexp(const Tensor& x, const Shape& dims = {}, bool keep_dims = false);

// (Σ |x|^p)^(1/p) for p = 1, 2 or infinity. The gradient at 0 is 0. Differentiable twice.
Tensor norm(const Tensor& x, double p = 2, const Shape& dims = {}, bool keep_dims = false);

// How many entries differ from zero, i64 (NaN does).
Tensor count_nonzero(const Tensor& x, const Shape& dims = {}, bool keep_dims = false);

}  // namespace tessera
