// Elementary functions, element by element. All are twice differentiable, broadcast where they take
// two tensors, and turn integers into f32 unless they say that integers stay integers. What each
// takes at a kink and at the ends of its domain stands in core/math.h.
#pragma once

#include "tessera/core/tensor.h"

namespace tessera {

Tensor exp(const Tensor& x);
Tensor expm1(const Tensor& x);  // exp(x) − 1, accurate near 0
Tensor log(const Tensor& x);    // −∞ at 0, NaN below
Tensor log1p(const Tensor& x);  // log(1 + x), accurate near 0
Tensor sqrt(const Tensor& x);
Tensor rsqrt(const Tensor& x);       // 1 / √x
Tensor square(const Tensor& x);      // integers stay
Tensor reciprocal(const Tensor& x);  // 1 / x
Tensor sin(const Tensor& x);         // NaN from |x| = 2⁵⁰, as cos
Tensor cos(const Tensor& x);
Tensor tanh(const Tensor& x);
Tensor sigmoid(const Tensor& x);      // 1 / (1 + exp(−x))
Tensor softplus(const Tensor& x);     // log(1 + exp x)
Tensor log_sigmoid(const Tensor& x);  // −softplus(−x)
Tensor erf(const Tensor& x);
Tensor abs(const Tensor& x);    // integers stay; derivative 0 at 0
Tensor sign(const Tensor& x);   // −1, 0, 1; integers stay; derivative 0
Tensor floor(const Tensor& x);  // as ceil and round: derivative 0
Tensor ceil(const Tensor& x);
Tensor round(const Tensor& x);  // halves to even

// x^p. A negative x wants an integer p, else NaN; x⁰ = 1.
Tensor pow(const Tensor& x, double p);
Tensor pow(const Tensor& x, const Tensor& p);
// x held in [low, high]; derivative 1 at the bounds, 0 outside. Integers stay, inside the bounds.
// Throws unless low <= high.
Tensor clamp(const Tensor& x, double low, double high);

// The smaller (larger) of two; NaN if either is. At a tie a takes the gradient. Integers stay.
Tensor minimum(const Tensor& a, const Tensor& b);
Tensor maximum(const Tensor& a, const Tensor& b);
// a − b floor(a / b): the sign of b, as in Python. Integers stay, and give 0 where b = 0.
Tensor remainder(const Tensor& a, const Tensor& b);
Tensor lerp(const Tensor& a, const Tensor& b, const Tensor& t);  // a + t (b − a)

Tensor isnan(const Tensor& x);     // bool
Tensor isfinite(const Tensor& x);  // bool

}  // namespace tessera
