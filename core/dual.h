// Dual numbers: a value and its derivative, carried through the same arithmetic.
//
//   Dual<double> x{3.0, 1.0};            // the variable: dx/dx = 1
//   auto y = x * x + 2.0 * x;            // y.value = 15, y.deriv = 8
//
// Constants are plain scalars. Dual<Dual<T>> carries second derivatives: {{x, 1}, {1, 0}} gives
// f, f', f', f'' in its four parts. Comparisons look at values alone.
#pragma once

#include <concepts>
#include <type_traits>

#include "tessera/core/inline.h"

namespace tessera {

template <class T>
struct Dual;

template <class T>
struct is_dual : std::false_type {};
template <class T>
struct is_dual<Dual<T>> : std::true_type {};
template <class T>
constexpr bool is_dual_v = is_dual<T>::value;

namespace detail {
template <class T>
struct ScalarOf {
  using type = T;
  static constexpr int depth = 0;
};
template <class T>
struct ScalarOf<Dual<T>> {
  using type = typename ScalarOf<T>::type;
  static constexpr int depth = ScalarOf<T>::depth + 1;
};
}  // namespace detail

// Dual<Dual<float>> and float -> float.
template <class T>
using scalar_of_t = typename detail::ScalarOf<T>::type;

// What a Dual<T> takes for a constant: any number, and T itself when T is a dual number.
template <class S, class T>
concept ConstantOf = std::is_arithmetic_v<S> ||(is_dual_v<T>&& std::same_as<S, T>);

template <class T>
struct Dual {
  T value{};
  T deriv{};

  constexpr Dual() = default;
  TESSERA_INLINE constexpr Dual(T v, T d) : value(v), deriv(d) {}
  template <ConstantOf<T> S>
  TESSERA_INLINE constexpr Dual(S constant) : value(lower(constant)) {}

  // A constant in the type that multiplies the parts: a plain scalar stays one.
  template <ConstantOf<T> S>
  TESSERA_INLINE static constexpr auto lower(S constant) {
    if constexpr (is_dual_v<S>) {
      return constant;
    } else {
      return static_cast<scalar_of_t<T>>(constant);
    }
  }

  TESSERA_INLINE constexpr Dual& operator+=(const auto& b) { return *this = *this + b; }
  TESSERA_INLINE constexpr Dual& operator-=(const auto& b) { return *this = *this - b; }
  TESSERA_INLINE constexpr Dual& operator*=(const auto& b) { return *this = *this * b; }
  TESSERA_INLINE constexpr Dual& operator/=(const auto& b) { return *this = *this / b; }
};

namespace detail {

// The common type of two operands: the more deeply nested dual number, else the usual one, where
// an integer beside a float is a float.
template <class A, class B>
constexpr auto promote() {
  if constexpr (ScalarOf<A>::depth != ScalarOf<B>::depth) {
    return std::conditional_t < ScalarOf<A>::depth<ScalarOf<B>::depth, B, A>{};
  } else if constexpr (std::same_as<A, B> || is_dual_v<A>) {
    return A{};
  } else {
    return std::common_type_t<A, B>{};
  }
}
template <class A, class B>
using promote_t = decltype(promote<A, B>());

template <class S, class T>
TESSERA_INLINE constexpr S primal(const T& x) {
  if constexpr (is_dual_v<T>) {
    return primal<S>(x.value);
  } else {
    return static_cast<S>(x);
  }
}

}  // namespace detail

// The chain rule's product, outer derivative times inner derivative, with 0 * inf = 0: what does
// not depend on its argument (tanh at 1e20, sqrt of a constant 0) has derivative 0 even where the
// other factor overflowed.
template <class T>
TESSERA_INLINE constexpr T chain(const T& outer, const T& inner) {
  if constexpr (is_dual_v<T>) {
    return {chain(outer.value, inner.value),
            chain(outer.deriv, inner.value) + chain(outer.value, inner.deriv)};
  } else {
    return ((outer == T(0)) | (inner == T(0))) ? T(0) : outer * inner;
  }
}

template <class T>
TESSERA_INLINE constexpr Dual<T> operator-(const Dual<T>& a) {
  return {-a.value, -a.deriv};
}

template <class T>
TESSERA_INLINE constexpr Dual<T> operator+(const Dual<T>& a, const Dual<T>& b) {
  return {a.value + b.value, a.deriv + b.deriv};
}
template <class T, ConstantOf<T> S>
TESSERA_INLINE constexpr Dual<T> operator+(const Dual<T>& a, const S& b) {
  return {a.value + Dual<T>::lower(b), a.deriv};
}
template <class T, ConstantOf<T> S>
TESSERA_INLINE constexpr Dual<T> operator+(const S& a, const Dual<T>& b) {
  return b + a;
}

template <class T>
TESSERA_INLINE constexpr Dual<T> operator-(const Dual<T>& a, const Dual<T>& b) {
  return {a.value - b.value, a.deriv - b.deriv};
}
template <class T, ConstantOf<T> S>
TESSERA_INLINE constexpr Dual<T> operator-(const Dual<T>& a, const S& b) {
  return {a.value - Dual<T>::lower(b), a.deriv};
}
template <class T, ConstantOf<T> S>
TESSERA_INLINE constexpr Dual<T> operator-(const S& a, const Dual<T>& b) {
  return {Dual<T>::lower(a) - b.value, -b.deriv};
}

template <class T>
TESSERA_INLINE constexpr Dual<T> operator*(const Dual<T>& a, const Dual<T>& b) {
  return {a.value * b.value, a.deriv * b.value + a.value * b.deriv};
}
template <class T, ConstantOf<T> S>
TESSERA_INLINE constexpr Dual<T> operator*(const Dual<T>& a, const S& b) {
  return {a.value * Dual<T>::lower(b), a.deriv * Dual<T>::lower(b)};
}
template <class T, ConstantOf<T> S>
TESSERA_INLINE constexpr Dual<T> operator*(const S& a, const Dual<T>& b) {
  return b * a;
}

// (a / b)' = (a' - (a / b) b') / b. The product is chain(): a quotient that underflowed to 0 stays
// flat although its denominator's derivative is infinite.
template <class T>
TESSERA_INLINE constexpr Dual<T> operator/(const Dual<T>& a, const Dual<T>& b) {
  const T q = a.value / b.value;
  return {q, (a.deriv - chain(q, b.deriv)) / b.value};
}
template <class T, ConstantOf<T> S>
TESSERA_INLINE constexpr Dual<T> operator/(const Dual<T>& a, const S& b) {
  return {a.value / Dual<T>::lower(b), a.deriv / Dual<T>::lower(b)};
}
template <class T, ConstantOf<T> S>
TESSERA_INLINE constexpr Dual<T> operator/(const S& a, const Dual<T>& b) {
  const T q = Dual<T>::lower(a) / b.value;
  return {q, -chain(q, b.deriv) / b.value};
}

template <class A, class B>
concept DualPair = is_dual_v<A> || is_dual_v<B>;

template <class A, class B>
requires DualPair<A, B> TESSERA_INLINE constexpr bool operator==(const A& a, const B& b) {
  using S = scalar_of_t<detail::promote_t<A, B>>;
  return detail::primal<S>(a) == detail::primal<S>(b);
}
template <class A, class B>
requires DualPair<A, B> TESSERA_INLINE constexpr bool operator!=(const A& a, const B& b) {
  return !(a == b);
}
template <class A, class B>
requires DualPair<A, B> TESSERA_INLINE constexpr bool operator<(const A& a, const B& b) {
  using S = scalar_of_t<detail::promote_t<A, B>>;
  return detail::primal<S>(a) < detail::primal<S>(b);
}
template <class A, class B>
requires DualPair<A, B> TESSERA_INLINE constexpr bool operator<=(const A& a, const B& b) {
  using S = scalar_of_t<detail::promote_t<A, B>>;
  return detail::primal<S>(a) <= detail::primal<S>(b);
}
template <class A, class B>
requires DualPair<A, B> TESSERA_INLINE constexpr bool operator>(const A& a, const B& b) {
  return b < a;
}
template <class A, class B>
requires DualPair<A, B> TESSERA_INLINE constexpr bool operator>=(const A& a, const B& b) {
  return b <= a;
}

}  // namespace tessera
