// Logarithms and what is built on them: softplus, log_sigmoid.
#pragma once

#include "tessera/core/math/exp.h"

namespace tessera::math {

namespace detail {

// R(z) = 2 atanh(s) / s - 2 with z = s^2 and |s| <= 0.1716, interpolated at Chebyshev nodes.
TESSERA_INLINE constexpr float log_tail(float z) {
  return z * polynomial(z, 0x1.555556p-1f, 0x1.9999ecp-2f, 0x1.245c28p-2f, 0x1.ddd4dap-3f);
}
TESSERA_INLINE constexpr double log_tail(double z) {
  return z * polynomial(z, 0x1.5555555555555p-1, 0x1.9999999999a39p-2, 0x1.2492492476a1ap-2,
                        0x1.c71c7201a55d7p-3, 0x1.745cf8e4bba1bp-3, 0x1.3b1c3c1c81c8fp-3,
                        0x1.0fbde0f4ad17bp-3, 0x1.0c0aff044a97p-3);
}

// x = 2^e m with sqrt(1/2) <= m < sqrt(2), for a normal positive x: the exponent is read off the
// distance to sqrt(1/2) and becomes a float by being put into the mantissa of 2^mantissa.
template <class T>
struct Split {
  T m;
  T e;
  Bits<T> minus_e;  // the exponent field of 2^-e
};

template <class T>
TESSERA_INLINE constexpr Split<T> split_exponent(T x) {
  using F = Format<T>;
  constexpr Bits<T> one = to_bits(T(1));
  constexpr Bits<T> root_half = to_bits(T(0x1.6a09e667f3bcdp-1));
  constexpr Bits<T> two_mantissa = Bits<T>(F::bias + F::mantissa) << F::mantissa;
  const Bits<T> biased = (to_bits(x) - root_half + one) >> F::mantissa;
  const T e =
      from_bits<T>(biased | two_mantissa) - (from_bits<T>(two_mantissa) + static_cast<T>(F::bias));
  const T m = from_bits<T>(to_bits(x) - (biased << F::mantissa) + one);
  return {m, e, (Bits<T>(2 * F::bias) - biased) << F::mantissa};
}

// e ln 2 + log(1 + f), where log(1 + f) = f - s (f - R(s^2)) and s = f / (2 + f).
template <class T>
TESSERA_INLINE constexpr T log_of_parts(T e, T f) {
  using F = Format<T>;
  const T s = f / (T(2) + f);
  const T correction = multiply_add(e, F::ln2_low, s * (log_tail(s * s) - f));
  return multiply_add(e, F::ln2_high, f + correction);
}

// The values of a logarithm outside (0, inf): inf and NaN stay, 0 gives -inf, less gives NaN.
template <class T>
TESSERA_INLINE constexpr T log_limits(T x, T y) {
  const T finite = x < kInfinity<T> ? y : x;
  const T outside = x < T(0) ? kNan<T> : -kInfinity<T>;
  return x <= T(0) ? outside : finite;
}

template <class T>
TESSERA_INLINE constexpr T log_scalar(T x) {
  using F = Format<T>;
  const bool subnormal = x < kSmallestNormal<T>;
  const T two_mantissa = static_cast<T>(Bits<T>{1} << F::mantissa);
  const auto [m, e, minus_e] = split_exponent(subnormal ? x * two_mantissa : x);
  return log_limits(x, log_of_parts(subnormal ? e - T(F::mantissa) : e, m - T(1)));
}

// With u = 1 + x rounded and c its rounding error, 1 + x = 2^e (m + c / 2^e).
template <class T>
TESSERA_INLINE constexpr T log1p_scalar(T x) {
  const T u = T(1) + x;
  const T back = u - T(1);
  const T c = (x - back) + (T(1) - (u - back));
  const auto [m, e, minus_e] = split_exponent(u);
  const T f = multiply_add(c, from_bits<T>(minus_e), m - T(1));
  return log_limits(u, log_of_parts(e, f));
}

// log(1 + t) for 0 <= t <= 1, where s = t / (2 + t) <= 1/3: a longer R serves without exponents.
TESSERA_INLINE constexpr float log1p_tail(float z) {
  return z * polynomial(z, 0x1.555556p-1f, 0x1.9998d4p-2f, 0x1.24c926p-2f, 0x1.bc8cf8p-3f,
                        0x1.dba26p-3f);
}
TESSERA_INLINE constexpr double log1p_tail(double z) {
  return z * polynomial(z, 0x1.5555555555555p-1, 0x1.999999999a3ddp-2, 0x1.24924923d44c6p-2,
                        0x1.c71c727143318p-3, 0x1.745cf0b0e03bdp-3, 0x1.3b18b294bebf9p-3,
                        0x1.10ac75dc602b1p-3, 0x1.eb905e8575054p-4, 0x1.687a6e7c95176p-4,
                        0x1.4b0a26c5f2aefp-3);
}
template <class T>
TESSERA_INLINE constexpr T log1p_unit(T t) {
  const T s = t / (T(2) + t);
  return multiply_add(s, log1p_tail(s * s) - t, t);
}

}  // namespace detail

// Natural logarithm: exponent times ln 2 plus the atanh series of the mantissa. -inf at 0, NaN
// below. Error 0.9e-7, 1.5e-16. Derivative 1 / x.
template <class T>
TESSERA_INLINE constexpr T log(const T& x) {
  if constexpr (is_dual_v<T>) {
    return {log(x.value), chain(reciprocal(x.value), x.deriv)};
  } else {
    return detail::log_scalar(x);
  }
}

// log(1 + x), accurate near 0: the rounding error of 1 + x goes into the series. Error 0.9e-7,
// 1.5e-16. Derivative 1 / (1 + x).
template <class T>
TESSERA_INLINE constexpr T log1p(const T& x) {
  if constexpr (is_dual_v<T>) {
    return {log1p(x.value), chain(reciprocal(scalar_of_t<T>(1) + x.value), x.deriv)};
  } else {
    return detail::log1p_scalar(x);
  }
}

// log(1 + e^x) = max(x, 0) + log1p(e^-|x|). Error 1.3e-7, 2.6e-16. Derivative sigmoid(x).
template <class T>
TESSERA_INLINE constexpr T softplus(const T& x) {
  if constexpr (is_dual_v<T>) {
    return {softplus(x.value), chain(sigmoid(x.value), x.deriv)};
  } else {
    return max(x, T(0)) + detail::log1p_unit(detail::exp_scalar(-abs(x)));
  }
}

// log sigmoid(x) = -softplus(-x). Derivative sigmoid(-x).
template <class T>
TESSERA_INLINE constexpr T log_sigmoid(const T& x) {
  return -softplus(-x);
}

}  // namespace tessera::math
