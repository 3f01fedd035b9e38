// Choice, magnitude, rounding and roots.
#pragma once

#include <cmath>

#include "tessera/core/math/format.h"

namespace tessera::math {

// condition ? a : b, part by part: the branch not taken may hold anything, NaN and inf included.
template <class A, class B>
TESSERA_INLINE constexpr auto select(bool condition, const A& a, const B& b) {
  using T = tessera::detail::promote_t<A, B>;
  const T x = static_cast<T>(a), y = static_cast<T>(b);
  if constexpr (is_dual_v<T>) {
    return T(select(condition, x.value, y.value), select(condition, x.deriv, y.deriv));
  } else {
    return condition ? x : y;
  }
}

// -1, 0 or 1; NaN stays NaN. Its derivative is 0 everywhere.
template <class T>
TESSERA_INLINE constexpr T sign(const T& x) {
  if constexpr (is_dual_v<T>) {
    return T(sign(x.value));
  } else {
    const T below = x < T(0) ? T(-1) : x;
    return x > T(0) ? T(1) : below;
  }
}

// |x|; derivative 0 at 0.
template <class T>
TESSERA_INLINE constexpr T abs(const T& x) {
  if constexpr (is_dual_v<T>) {
    return {abs(x.value), chain(sign(x.value), x.deriv)};
  } else if constexpr (std::is_same_v<T, float> || std::is_same_v<T, double>) {
    using B = detail::Bits<T>;
    return detail::from_bits<T>(detail::to_bits(x) & static_cast<B>(~B{0} >> 1));
  } else {
    return x < T(0) ? -x : x;
  }
}

// The larger and the smaller of two; NaN if either is. At a tie the first argument is taken, and
// with it the whole gradient: max(x, 0) has derivative 1 at 0, max(0, x) has 0.
template <class A, class B>
TESSERA_INLINE constexpr auto max(const A& a, const B& b) {
  using T = tessera::detail::promote_t<A, B>;
  const T x = static_cast<T>(a), y = static_cast<T>(b);
  return select((x < y) | (y != y), y, x);
}
template <class A, class B>
TESSERA_INLINE constexpr auto min(const A& a, const B& b) {
  using T = tessera::detail::promote_t<A, B>;
  const T x = static_cast<T>(a), y = static_cast<T>(b);
  return select((y < x) | (y != y), y, x);
}

// x held between low and high; derivative 1 inside and at the bounds, 0 outside.
template <class T, class L, class H>
TESSERA_INLINE constexpr auto clamp(const T& x, const L& low, const H& high) {
  using R = tessera::detail::promote_t<T, tessera::detail::promote_t<L, H>>;
  const R l = static_cast<R>(low), h = static_cast<R>(high), y = static_cast<R>(x);
  return select(y < l, l, select(y > h, h, y));
}

template <class T>
TESSERA_INLINE constexpr T square(const T& x) {
  return x * x;
}

// 1 / x.
template <class T>
TESSERA_INLINE constexpr T reciprocal(const T& x) {
  return scalar_of_t<T>(1) / x;
}

// Rounding to integers: down, up, to the nearest (halves to even). Derivative 0 everywhere.
template <class T>
TESSERA_INLINE constexpr T floor(const T& x) {
  if constexpr (is_dual_v<T>) {
    return T(floor(x.value));
  } else {
    return std::floor(x);
  }
}
template <class T>
TESSERA_INLINE constexpr T ceil(const T& x) {
  if constexpr (is_dual_v<T>) {
    return T(ceil(x.value));
  } else {
    return std::ceil(x);
  }
}
template <class T>
TESSERA_INLINE constexpr T round(const T& x) {
  if constexpr (is_dual_v<T>) {
    return T(round(x.value));
  } else {
    return std::rint(x);
  }
}

// Square root and its reciprocal, correctly rounded (the reciprocal twice). The derivative at 0 is
// what it is: infinite; through chain() it still leaves a constant argument alone.
template <class T>
TESSERA_INLINE constexpr T sqrt(const T& x) {
  if constexpr (is_dual_v<T>) {
    const auto y = sqrt(x.value);
    return {y, chain(scalar_of_t<T>(0.5) / y, x.deriv)};
  } else {
    return std::sqrt(x);
  }
}
template <class T>
TESSERA_INLINE constexpr T rsqrt(const T& x) {
  if constexpr (is_dual_v<T>) {
    const auto y = rsqrt(x.value);
    return {y, chain(scalar_of_t<T>(-0.5) * y / x.value, x.deriv)};
  } else {
    return T(1) / std::sqrt(x);
  }
}

}  // namespace tessera::math
