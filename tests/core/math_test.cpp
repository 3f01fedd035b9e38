#include "tessera/core/math.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <random>

using namespace tessera;

namespace {

template <class T>
constexpr T kInf = std::numeric_limits<T>::infinity();
template <class T>
constexpr T kNan = std::numeric_limits<T>::quiet_NaN();

// The largest relative error of f against the reference over half random bit patterns and half
// points of [-30, 30], within [low, high]. Below the normal numbers an absolute error of the
// smallest of them is allowed, and a result out of range must be the same inf or NaN.
template <class T, class F, class G>
double worst_error(F f, G reference, double low = -kInf<double>, double high = kInf<double>) {
  std::mt19937_64 random(7);
  std::uniform_real_distribution<double> ordinary(-30, 30);
  double worst = 0;
  for (int i = 0; i < 60000; ++i) {
    using Bits = math::detail::Bits<T>;
    const T x = i % 2 == 0 ? std::bit_cast<T>(static_cast<Bits>(random()))
                           : static_cast<T>(ordinary(random));
    if (x < low || x > high) continue;
    const auto want = static_cast<long double>(reference(static_cast<long double>(x)));
    const T got = f(x);
    double error = 0;
    if (std::isnan(want) || std::isinf(static_cast<T>(want))) {
      const bool same = std::isnan(want) ? std::isnan(got) : got == static_cast<T>(want);
      error = same ? 0 : kInf<double>;
    } else if (std::abs(want) < std::numeric_limits<T>::min()) {
      error = std::abs(got - want) <= std::numeric_limits<T>::min() ? 0 : kInf<double>;
    } else {
      error = static_cast<double>(std::abs((got - want) / want));
    }
    if (!(error <= worst)) worst = error;
  }
  return worst;
}

long double softplus(long double x) {
  return std::fmax(x, 0.0L) + std::log1p(std::exp(-std::fabs(x)));
}

// The bound of the accurate functions: 4e-7 and 1e-15.
template <class T>
constexpr double kBound = sizeof(T) == 4 ? 4e-7 : 1e-15;

}  // namespace

#define WORST(name, reference, ...)                 \
  worst_error<T>([](T x) { return math::name(x); }, \
                 [](long double x) { return reference; } __VA_OPT__(, ) __VA_ARGS__)

TEST_CASE_TEMPLATE("functions agree with long double over random bit patterns", T, float, double) {
  CHECK(WORST(exp, std::exp(x)) < kBound<T>);
  CHECK(WORST(expm1, std::expm1(x)) < kBound<T>);
  CHECK(WORST(tanh, std::tanh(x)) < kBound<T>);
  CHECK(WORST(sigmoid, 1 / (1 + std::exp(-x))) < kBound<T>);
  CHECK(WORST(log, std::log(x)) < kBound<T>);
  CHECK(WORST(log1p, std::log1p(x)) < kBound<T>);
  CHECK(WORST(softplus, ::softplus(x)) < kBound<T>);
  CHECK(WORST(log_sigmoid, -::softplus(-x)) < kBound<T>);
  CHECK(WORST(erf, std::erf(x)) < kBound<T>);
  CHECK(WORST(sqrt, std::sqrt(x)) < kBound<T>);
  CHECK(WORST(rsqrt, 1 / std::sqrt(x), 0.0) < kBound<T>);
  CHECK(WORST(reciprocal, 1 / x) < kBound<T>);
}

TEST_CASE_TEMPLATE("sine and cosine are accurate up to 1e5", T, float, double) {
  CHECK(WORST(sin, std::sin(x), -1e5, 1e5) < kBound<T>);
  CHECK(WORST(cos, std::cos(x), -1e5, 1e5) < kBound<T>);
  for (int quarter = -40; quarter <= 40; ++quarter) {
    const T x = static_cast<T>(quarter * 1.57079632679489661923);
    CHECK(math::sin(x) == doctest::Approx(std::sin(x)).epsilon(1e-6));
    CHECK(math::cos(x) == doctest::Approx(std::cos(x)).epsilon(1e-6));
  }
  CHECK(math::sin(T(1e9)) == doctest::Approx(std::sin(T(1e9))).epsilon(1e-6));
  CHECK(std::isnan(math::sin(kInf<T>)));
  CHECK(std::isnan(math::cos(kNan<T>)));
}

TEST_CASE_TEMPLATE("powers agree with long double for every kind of exponent", T, float, double) {
  const double bound = sizeof(T) == 4 ? 1e-7 : 3e-13;
  for (const T y : {T(0), T(0.5), T(1), T(2), T(2.75), T(-0.25), T(-3), T(7), T(-40), T(1e3)}) {
    CAPTURE(y);
    const auto f = [y](T x) { return math::pow(x, y); };
    const auto reference = [y](long double x) { return std::pow(x, static_cast<long double>(y)); };
    CHECK(worst_error<T>(f, reference, 0.0) < bound);
    if (std::floor(y) == y) CHECK(worst_error<T>(f, reference, -kInf<double>, -1e-300) < bound);
  }
  CHECK(math::pow(T(-2), T(3)) == doctest::Approx(-8));
  CHECK(math::pow(T(-2), T(2)) == doctest::Approx(4));
  CHECK(std::isnan(math::pow(T(-2), T(0.5))));
  CHECK(math::pow(T(0), T(0)) == 1);
  CHECK(math::pow(T(0), T(-1)) == kInf<T>);
  CHECK(math::pow(T(0), T(2)) == 0);
  CHECK(std::isnan(math::pow(kNan<T>, T(2))));
  CHECK(std::isnan(math::pow(T(2), kNan<T>)));
}

TEST_CASE_TEMPLATE("limits are exact and NaN passes through", T, float, double) {
  const T inf = kInf<T>;
  CHECK(math::exp(inf) == inf);
  CHECK(math::exp(-inf) == 0);
  CHECK(math::exp(T(0)) == 1);
  CHECK(math::expm1(-inf) == -1);
  CHECK(math::expm1(inf) == inf);
  CHECK(math::tanh(inf) == 1);
  CHECK(math::tanh(-inf) == -1);
  CHECK(math::sigmoid(inf) == 1);
  CHECK(math::sigmoid(-inf) == 0);
  CHECK(math::sigmoid(T(0)) == T(0.5));
  CHECK(math::log(T(0)) == -inf);
  CHECK(math::log(T(1)) == 0);
  CHECK(math::log(inf) == inf);
  CHECK(std::isnan(math::log(T(-1))));
  CHECK(std::isnan(math::log(-inf)));
  CHECK(math::log1p(T(-1)) == -inf);
  CHECK(math::log1p(inf) == inf);
  CHECK(std::isnan(math::log1p(T(-1.5))));
  CHECK(math::softplus(inf) == inf);
  CHECK(math::softplus(-inf) == 0);
  CHECK(math::log_sigmoid(-inf) == -inf);
  CHECK(math::log_sigmoid(inf) == 0);
  CHECK(math::erf(inf) == 1);
  CHECK(math::erf(-inf) == -1);
  const T nan = kNan<T>;
  for (const T y : {math::exp(nan), math::expm1(nan), math::tanh(nan), math::sigmoid(nan),
                    math::log(nan), math::log1p(nan), math::softplus(nan), math::log_sigmoid(nan),
                    math::erf(nan), math::sqrt(nan), math::abs(nan), math::sign(nan),
                    math::max(nan, T(0)), math::max(T(0), nan), math::min(nan, T(0)),
                    math::min(T(0), nan), math::clamp(nan, T(0), T(1))}) {
    CHECK(std::isnan(y));
  }
}

TEST_CASE_TEMPLATE("small arguments keep their relative accuracy and sign", T, float, double) {
  const T tiny = std::numeric_limits<T>::min();
  for (const T x : {tiny, -tiny, T(1e-20), T(-1e-9)}) {
    CHECK(math::expm1(x) == doctest::Approx(x).epsilon(1e-7));
    CHECK(math::log1p(x) == doctest::Approx(x).epsilon(1e-7));
    CHECK(math::tanh(x) == doctest::Approx(x).epsilon(1e-7));
    CHECK(math::sin(x) == doctest::Approx(x).epsilon(1e-7));
    CHECK(std::signbit(math::erf(x)) == std::signbit(x));
  }
  CHECK(std::signbit(math::tanh(T(-0.0))));
  CHECK(math::log(tiny / 4) == doctest::Approx(std::log(tiny / 4)));
}

TEST_CASE("select, extremes and rounding take integers and mixed operands") {
  CHECK(math::select(true, 1, 2.5) == 1.0);
  CHECK(math::max(int64_t{3}, int64_t{-4}) == 3);
  CHECK(math::min(2.0f, -1) == -1.0f);
  CHECK(math::abs(int64_t{-7}) == 7);
  CHECK(math::sign(int64_t{-7}) == -1);
  CHECK(math::clamp(int64_t{9}, 0, 5) == 5);
  CHECK(math::square(int64_t{-3}) == 9);
  CHECK(math::floor(-1.5f) == -2.0f);
  CHECK(math::ceil(-1.5) == -1.0);
  CHECK(math::round(2.5) == 2.0);
  CHECK(math::round(-3.5f) == -4.0f);
  static_assert(std::is_same_v<decltype(math::max(1.0f, 0)), float>);
  static_assert(std::is_same_v<decltype(math::pow(Dual<float>(1), 2)), Dual<float>>);
}
