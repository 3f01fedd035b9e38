// Arithmetic with broadcasting, as functions and operators. All twice differentiable.
#pragma once

#include "tessera/core/tensor.h"

namespace tessera {

Tensor add(const Tensor& a, const Tensor& b);  // a + b
Tensor sub(const Tensor& a, const Tensor& b);  // a − b
Tensor mul(const Tensor& a, const Tensor& b);  // a b
Tensor div(const Tensor& a, const Tensor& b);  // a / b, as real numbers also for integers
Tensor neg(const Tensor& x);                   // −x
// scale · x + shift with constants; integers need integral constants.
Tensor affine(const Tensor& x, double scale, double shift);

inline Tensor operator+(const Tensor& a, const Tensor& b) {
  return add(a, b);
}
inline Tensor operator-(const Tensor& a, const Tensor& b) {
  return sub(a, b);
}
inline Tensor operator*(const Tensor& a, const Tensor& b) {
  return mul(a, b);
}
inline Tensor operator/(const Tensor& a, const Tensor& b) {
  return div(a, b);
}
inline Tensor operator-(const Tensor& x) {
  return neg(x);
}

inline Tensor operator+(const Tensor& a, double b) {
  return affine(a, 1, b);
}
inline Tensor operator+(double a, const Tensor& b) {
  return affine(b, 1, a);
}
inline Tensor operator-(const Tensor& a, double b) {
  return affine(a, 1, -b);
}
inline Tensor operator-(double a, const Tensor& b) {
  return affine(b, -1, a);
}
inline Tensor operator*(const Tensor& a, double b) {
  return affine(a, b, 0);
}
inline Tensor operator*(double a, const Tensor& b) {
  return affine(b, a, 0);
}
inline Tensor operator/(const Tensor& a, double b) {
  return affine(a, 1 / b, 0);
}
Tensor operator/(double a, const Tensor& b);

}  // namespace tessera
