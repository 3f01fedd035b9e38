// Comparisons, logic and selection. Comparisons answer bool and carry no history.
#pragma once

#include "tessera/core/tensor.h"

namespace tessera {

// Element by element over the broadcast inputs, in their promoted dtype. Any comparison with NaN is
// false, except ne. A constant is compared in the tensor's dtype; with integers, as a real number.
Tensor eq(const Tensor& a, const Tensor& b);
Tensor ne(const Tensor& a, const Tensor& b);
Tensor lt(const Tensor& a, const Tensor& b);
Tensor le(const Tensor& a, const Tensor& b);
Tensor gt(const Tensor& a, const Tensor& b);
Tensor ge(const Tensor& a, const Tensor& b);
Tensor eq(const Tensor& a, double b);
Tensor ne(const Tensor& a, double b);
Tensor lt(const Tensor& a, double b);
Tensor le(const Tensor& a, double b);
Tensor gt(const Tensor& a, double b);
Tensor ge(const Tensor& a, double b);

// Nonzero entries (and NaN) count as true.
Tensor logical_and(const Tensor& a, const Tensor& b);
Tensor logical_or(const Tensor& a, const Tensor& b);
Tensor logical_not(const Tensor& x);
// Over `dims` (empty: all); of no entries: false and true.
Tensor any(const Tensor& x, const Shape& dims = {}, bool keep_dims = false);
Tensor all(const Tensor& x, const Shape& dims = {}, bool keep_dims = false);

// y = condition ? a : b over the broadcast inputs; the condition is bool. The gradient goes to what
// was chosen, nothing (not even NaN) comes from the rest. Differentiable any number of times.
Tensor where(const Tensor& condition, const Tensor& a, const Tensor& b);
// y = mask ? value : x; the bool mask broadcasts to x's shape. Differentiable any number of times.
Tensor masked_fill(const Tensor& x, const Tensor& mask, double value);

}  // namespace tessera
