#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <string_view>
#include <vector>

#include "tessera/core/math.h"

using namespace tessera;

namespace {

template <class T>
constexpr T kInf = std::numeric_limits<T>::infinity();

template <class F, class T>
T derivative(F f, T x) {
  return f(Dual<T>{x, T(1)}).deriv;
}

template <class F>
double second_derivative(F f, double x) {
  return f(Dual<Dual<double>>{{x, 1.0}, {1.0, 0.0}}).deriv.deriv;
}

// Central difference of sixth order.
template <class F>
double difference(F f, double x) {
  const double h = 1e-2;
  const auto d = [&](double k) { return (f(x + k * h) - f(x - k * h)) / h; };
  return 0.75 * d(1) - 0.15 * d(2) + d(3) / 60;
}

// Calls visit(name, f) for the activations of the literature, each composed of primitives.
template <class Visit>
void for_each_activation(Visit visit) {
  const auto real = [](auto x, double value) {
    return static_cast<scalar_of_t<decltype(x)>>(value);
  };
  visit("silu", [](auto x) { return x * math::sigmoid(x); });
  visit("mish", [](auto x) { return x * math::tanh(math::softplus(x)); });
  visit("elu", [](auto x) { return math::select(x > 0, x, math::expm1(x)); });
  visit("softsign", [](auto x) { return x / (scalar_of_t<decltype(x)>(1) + math::abs(x)); });
  visit("softplus", [](auto x) { return math::softplus(x); });
  visit("log_sigmoid", [](auto x) { return math::log_sigmoid(x); });
  visit("gelu", [=](auto x) {
    return real(x, 0.5) * x * (real(x, 1) + math::erf(x * real(x, std::sqrt(0.5))));
  });
  visit("gelu_tanh", [=](auto x) {
    const auto u = real(x, 0.79788456080286536) * (x + real(x, 0.044715) * x * x * x);
    return real(x, 0.5) * x * (real(x, 1) + math::tanh(u));
  });
  visit("softcap", [=](auto x) { return real(x, 30) * math::tanh(x / real(x, 30)); });
  visit("relu squared", [=](auto x) { return math::square(math::max(x, real(x, 0))); });
  visit("tanh", [](auto x) { return math::tanh(x); });
  visit("erf", [](auto x) { return math::erf(x); });
  visit("sigmoid", [](auto x) { return math::sigmoid(x); });
}

template <class T>
std::vector<T> sweep() {
  std::vector<T> points = {T(0.0), T(-0.0)};
  for (const double x : {1e-45, 1e-40, 1e-38, 1e-30, 1e-20, 1e-10, 1e-7, 1e-3, 0.1,  0.5,
                         1.0,   2.0,   5.0,   10.0,  17.0,  20.0,  87.0, 88.0, 89.0, 100.0,
                         104.0, 710.0, 746.0, 1e4,   1e10,  1e13,  1e19, 1e20, 1e25, 1e30}) {
    points.push_back(static_cast<T>(x));
    points.push_back(static_cast<T>(-x));
  }
  return points;
}

}  // namespace

TEST_CASE_TEMPLATE("derivatives of activations are finite from denormals to 1e30", T, float,
                   double) {
  for_each_activation([](const char* name, auto f) {
    for (const T x : sweep<T>()) {
      CAPTURE(name);
      CAPTURE(x);
      const auto y = f(Dual<T>{x, T(1)});
      const bool overflows = std::string_view(name) == "relu squared" && x > 1e15;
      if (!overflows) CHECK(std::isfinite(y.value));
      CHECK(std::isfinite(y.deriv));
    }
  });
}

TEST_CASE("derivatives in f32 agree with f64") {
  for_each_activation([](const char* name, auto f) {
    for (const float x : sweep<float>()) {
      CAPTURE(name);
      CAPTURE(x);
      const double want = derivative(f, static_cast<double>(x));
      CHECK(std::abs(derivative(f, x) - want) <= 2e-6 * (1 + std::abs(want)));
    }
  });
}

TEST_CASE("first and second derivatives of activations agree with differences") {
  for_each_activation([](const char* name, auto f) {
    for (const double x : {-3.7, -1.3, -0.4, 0.3, 0.9, 2.1, 4.5}) {
      CAPTURE(name);
      CAPTURE(x);
      const auto first = [&](double t) { return derivative(f, t); };
      CHECK(std::abs(first(x) - difference(f, x)) < 1e-9);
      CHECK(std::abs(second_derivative(f, x) - difference(first, x)) < 1e-9);
    }
  });
}

TEST_CASE("first and second derivatives of primitives agree with differences") {
  const auto agree = [](const char* name, auto f) {
    for (const double x : {0.31, 0.77, 1.4, 2.3}) {
      CAPTURE(name);
      CAPTURE(x);
      const auto first = [&](double t) { return derivative(f, t); };
      CHECK(first(x) == doctest::Approx(difference(f, x)).epsilon(1e-7));
      CHECK(second_derivative(f, x) == doctest::Approx(difference(first, x)).epsilon(1e-6));
    }
  };
  agree("exp", [](auto x) { return math::exp(x); });
  agree("expm1", [](auto x) { return math::expm1(x); });
  agree("log", [](auto x) { return math::log(x); });
  agree("log1p", [](auto x) { return math::log1p(x); });
  agree("sqrt", [](auto x) { return math::sqrt(x); });
  agree("rsqrt", [](auto x) { return math::rsqrt(x); });
  agree("reciprocal", [](auto x) { return math::reciprocal(x); });
  agree("square", [](auto x) { return math::square(x); });
  agree("sin", [](auto x) { return math::sin(x); });
  agree("cos", [](auto x) { return math::cos(x); });
  agree("pow(x, 2.5)", [](auto x) { return math::pow(x, 2.5); });
  agree("pow(2.5, x)", [](auto x) { return math::pow(2.5, x); });
  agree("pow(x, x)", [](auto x) { return math::pow(x, x); });
  agree("abs", [](auto x) { return math::abs(x * x - x); });
  agree("clamp", [](auto x) { return math::clamp(x * x, 0.5, 4.0); });
  agree("max", [](auto x) { return math::max(x * x, 1.0); });
  agree("min", [](auto x) { return math::min(x, x * x * x); });
}

TEST_CASE_TEMPLATE("every kink has the derivative that its comment states", T, float, double) {
  const Dual<T> zero{T(0), T(1)}, one{T(1), T(1)}, other{T(1), T(5)};
  CHECK(math::abs(zero).deriv == 0);
  CHECK(math::abs(-one).deriv == 1);
  CHECK(math::sign(zero).deriv == 0);
  CHECK(math::floor(one).deriv == 0);
  CHECK(math::ceil(one).deriv == 0);
  CHECK(math::round(one).deriv == 0);
  CHECK(math::max(one, other).deriv == 1);
  CHECK(math::max(other, one).deriv == 5);
  CHECK(math::min(one, other).deriv == 1);
  CHECK(math::max(zero, T(0)).deriv == 1);
  CHECK(math::max(T(0), zero).deriv == 0);
  CHECK(math::clamp(zero, T(0), T(1)).deriv == 1);
  CHECK(math::clamp(one, T(0), T(1)).deriv == 1);
  CHECK(math::clamp(one, T(-1), T(0.5)).deriv == 0);
  CHECK(math::sqrt(zero).deriv == kInf<T>);
}

TEST_CASE_TEMPLATE("powers have honest derivatives at zero", T, float, double) {
  const Dual<T> zero{T(0), T(1)};
  CHECK(math::pow(zero, T(2)).deriv == 0);
  CHECK(math::pow(zero, T(1.5)).deriv == 0);
  CHECK(math::pow(zero, T(1)).deriv == 1);
  CHECK(math::pow(zero, T(0)).deriv == 0);
  CHECK(math::pow(zero, T(0.5)).deriv == kInf<T>);
  CHECK(math::pow(T(0), Dual<T>{T(2), T(1)}).deriv == 0);
  CHECK(math::pow(zero, Dual<T>(T(2))).deriv == 0);
  CHECK(math::pow(Dual<T>{T(-2), T(1)}, Dual<T>(T(3))).deriv == doctest::Approx(12));
  const Dual<Dual<T>> nested{{T(0), T(1)}, {T(1), T(0)}};
  CHECK(math::pow(nested, T(2)).deriv.deriv == 2);
  CHECK(math::pow(nested, T(1)).deriv.deriv == 0);
}

TEST_CASE_TEMPLATE("a saturated function hides an infinite inner derivative", T, float, double) {
  const Dual<T> steep{T(1e30), kInf<T>};
  CHECK(math::tanh(steep).deriv == 0);
  CHECK(math::sigmoid(steep).deriv == 0);
  CHECK(math::erf(steep).deriv == 0);
  CHECK(math::exp(-steep).deriv == 0);
  CHECK(math::sqrt(Dual<T>(T(0))).deriv == 0);
}

TEST_CASE_TEMPLATE("select leaves no trace of the branch not taken", T, float, double) {
  const Dual<T> bad{std::numeric_limits<T>::quiet_NaN(), kInf<T>}, good{T(2), T(3)};
  CHECK(math::select(false, bad, good).value == 2);
  CHECK(math::select(false, bad, good).deriv == 3);
  CHECK(math::select(true, T(1), bad).deriv == 0);
}
