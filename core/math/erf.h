// The error function.
#pragma once

#include "tessera/core/math/exp.h"

namespace tessera::math {

namespace detail {

// -log(erfc x) / x for 0 <= x <= 4 (in double, 6): smooth, so one polynomial serves the whole
// range; fitted for the smallest relative error of erf.
TESSERA_INLINE constexpr float erf_exponent(float x) {
  return polynomial(x, 0x1.20dd76p+0f, 0x1.45f298p-1f, 0x1.a520bap-4f, -0x1.3c9124p-6f,
                    0x1.af6968p-13f, 0x1.482378p-10f, -0x1.8f826p-12f, 0x1.557bfcp-15f);
}
TESSERA_INLINE constexpr double erf_exponent(double x) {
  return polynomial(x - 2.0, 0x1.575b329b1f548p+1, 0x1.bc5630f3f8ac9p-1, 0x1.c9fadda94362p-6,
                    -0x1.786e4f634cbd5p-8, 0x1.1cd5eb6133781p-10, -0x1.735db06b4c307p-13,
                    0x1.5e6853d6630c4p-16, -0x1.81e89b70c027cp-24, -0x1.f400a92c2189fp-21,
                    0x1.86c007cd4d733p-22, -0x1.989cb6e20a149p-24, 0x1.415ed55e3521p-26,
                    -0x1.58d5eee53fc55p-29, -0x1.670d8bf758f05p-34, 0x1.ce4db3fcebd28p-33,
                    -0x1.ba85acee9d782p-35, 0x1.ce383de3dedb2p-38, -0x1.d40759786d0e4p-38,
                    0x1.bce43b84d74f3p-40, 0x1.d8d00b8e051dap-42, -0x1.0fc1896cc15a5p-43);
}

template <class T>
TESSERA_INLINE constexpr T erf_scalar(T x) {
  const T a = min(abs(x), T(std::is_same_v<T, float> ? 4 : 6));
  return copy_sign(expm1_nonpositive(-a * erf_exponent(a)), x);
}

}  // namespace detail

// 2/sqrt(pi) times the integral of e^(-t^2) from 0 to x, as 1 - e^-q(x). Error 2.1e-7, 7e-16.
template <class T>
TESSERA_INLINE constexpr T erf(const T& x) {
  if constexpr (is_dual_v<T>) {
    constexpr auto two_over_root_pi = static_cast<scalar_of_t<T>>(1.12837916709551257390);
    return {erf(x.value), chain(two_over_root_pi * exp(-(x.value * x.value)), x.deriv)};
  } else {
    return detail::erf_scalar(x);
  }
}

}  // namespace tessera::math
