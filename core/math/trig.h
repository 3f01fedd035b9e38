// Sine and cosine.
#pragma once

#include "tessera/core/math/basic.h"

namespace tessera::math {

namespace detail {

// sin(x + quarter * pi/2), computed in double for both types. x = n pi/2 + r by Cody and Waite's
// reduction with three parts of pi/2 (33 + 33 + 53 bits); the sine and cosine of r are
// interpolated at Chebyshev nodes and n picks one and its sign.
TESSERA_INLINE double sine(double x, uint64_t quarter) {
  constexpr double kTwoOverPi = 0x1.45f306dc9c883p-1;
  const double shifted = multiply_add(x, kTwoOverPi, Format<double>::round);
  const double n = shifted - Format<double>::round;
  double r = multiply_add(-n, 0x1.921fb544p+0, x);
  r = multiply_add(-n, 0x1.0b4611a6p-34, r);
  r = multiply_add(-n, 0x1.3198a2e037073p-69, r);
  const double z = r * r;
  const double s =
      polynomial(z, -0x1.5555555555555p-3, 0x1.1111111110babp-7, -0x1.a01a019e820aep-13,
                 0x1.71de37946ed6dp-19, -0x1.ae6008d114485p-26, 0x1.5e0a4fc16be59p-33);
  const double c =
      polynomial(z, 0x1.5555555555555p-5, -0x1.6c16c16c16963p-10, 0x1.a01a019f4ddfdp-16,
                 -0x1.27e4fa16cc2d1p-22, 0x1.1eeb67d026ec6p-29, -0x1.907cd8ff5ede7p-37);
  const double sin_r = multiply_add(r * z, s, r);
  const double cos_r = multiply_add(z * z, c, multiply_add(-0.5, z, 1.0));
  const uint64_t quadrant = to_bits(shifted) + quarter;
  const double y = (quadrant & 1) != 0 ? cos_r : sin_r;
  const double result = from_bits<double>(to_bits(y) ^ ((quadrant & 2) << 62));
  return abs(x) < 0x1p50 ? result : kNan<double>;
}

}  // namespace detail

// Sine and cosine of x in radians. Up to |x| = 1e6 the error is below 2e-16 (in float, one ulp);
// beyond, it grows like |x| 2^-53, what a half ulp of a double x makes of it; NaN from 2^50.
template <class T>
TESSERA_INLINE constexpr T cos(const T& x);

template <class T>
TESSERA_INLINE constexpr T sin(const T& x) {
  if constexpr (is_dual_v<T>) {
    return {sin(x.value), chain(cos(x.value), x.deriv)};
  } else {
    return static_cast<T>(detail::sine(static_cast<double>(x), 0));
  }
}
template <class T>
TESSERA_INLINE constexpr T cos(const T& x) {
  if constexpr (is_dual_v<T>) {
    return {cos(x.value), chain(-sin(x.value), x.deriv)};
  } else {
    return static_cast<T>(detail::sine(static_cast<double>(x), 1));
  }
}

}  // namespace tessera::math
