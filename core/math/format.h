// What the approximations need to know of a floating-point format, and a few exact operations.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>

#include "tessera/core/dual.h"

namespace tessera::math::detail {

// round: adding and subtracting 1.5 * 2^mantissa rounds to an integer, whose two's complement is
// then in the low bits of the sum: no conversion instruction, which AVX2 lacks for 64 bits.
// ln2 is split so that n * ln2_high is exact for every exponent n.
template <class T>
struct Format;

template <>
struct Format<float> {
  using Bits = uint32_t;
  static constexpr int mantissa = 23;
  static constexpr int bias = 127;
  static constexpr float round = 0x1.8p23f;
  static constexpr float log2_e = 0x1.715476p+0f;
  static constexpr float ln2_high = 0x1.62e4p-1f;
  static constexpr float ln2_low = 0x1.7f7d1cp-20f;
  static constexpr float exp_max = 0x1.62e42ep+6f;   // exp is finite up to here
  static constexpr float exp_min = -0x1.5d589ep+6f;  // exp is a normal number from here
};

template <>
struct Format<double> {
  using Bits = uint64_t;
  static constexpr int mantissa = 52;
  static constexpr int bias = 1023;
  static constexpr double round = 0x1.8p52;
  static constexpr double log2_e = 0x1.71547652b82fep+0;
  static constexpr double ln2_high = 0x1.62e42fefa38p-1;
  static constexpr double ln2_low = 0x1.ef35793c7673p-45;
  static constexpr double exp_max = 0x1.62e42fefa39efp+9;
  static constexpr double exp_min = -0x1.6232bdd7abcd2p+9;
};

// Constants rather than calls of numeric_limits, which device code may not make.
template <class T>
constexpr T kInfinity = std::numeric_limits<T>::infinity();
template <class T>
constexpr T kNan = std::numeric_limits<T>::quiet_NaN();
template <class T>
constexpr T kSmallestNormal = std::numeric_limits<T>::min();

template <class T>
using Bits = typename Format<T>::Bits;

template <class T>
TESSERA_INLINE constexpr Bits<T> to_bits(T x) {
  return __builtin_bit_cast(Bits<T>, x);
}
template <class T>
TESSERA_INLINE constexpr T from_bits(Bits<T> bits) {
  return __builtin_bit_cast(T, bits);
}

// The magnitude of y with the sign of x.
template <class T>
TESSERA_INLINE constexpr T copy_sign(T y, T x) {
  constexpr Bits<T> sign = Bits<T>{1} << (8 * sizeof(T) - 1);
  return from_bits<T>((to_bits(y) & ~sign) | (to_bits(x) & sign));
}

// a * b + c, fused where the processor can do it in one instruction.
template <class T>
TESSERA_INLINE constexpr T multiply_add(T a, T b, T c) {
#if defined(__CUDA_ARCH__)
  return ::fma(a, b, c);
#elif defined(__FMA__) || defined(__aarch64__)
  if constexpr (std::is_same_v<T, float>) {
    return __builtin_fmaf(a, b, c);
  } else {
    return __builtin_fma(a, b, c);
  }
#else
  return a * b + c;
#endif
}

// c0 + c1 x + c2 x^2 + … by Horner's rule.
template <class T>
TESSERA_INLINE constexpr T polynomial(T, T c0) {
  return c0;
}
template <class T, class... C>
TESSERA_INLINE constexpr T polynomial(T x, T c0, C... higher) {
  return multiply_add(x, polynomial(x, higher...), c0);
}

}  // namespace tessera::math::detail
