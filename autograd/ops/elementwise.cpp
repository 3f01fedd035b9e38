#include "tessera/autograd/ops/elementwise.h"

#include <cmath>

#include "tessera/autograd/ops/define.h"

namespace tessera {
namespace detail {
namespace {

constexpr Interval kAboveMinusOne{-1, INFINITY};
constexpr Interval kReducible{-0x1p49, 0x1p49};  // where math::sin reduces its argument

// Python's %; nothing to divide by leaves nothing.
TESSERA_HD inline int64_t remainder_of(int64_t a, int64_t b) {
  if (b == 0 || b == -1) return 0;
  const int64_t r = a % b;
  return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}
template <class T>
TESSERA_HD T remainder_of(const T& a, const T& b) {
  return a - b * math::floor(a / b);
}

}  // namespace
}  // namespace detail

TESSERA_UNARY(exp, kReal, "y = exp x", "", math::exp(x))
TESSERA_UNARY(expm1, kReal, "y = exp x − 1", "", math::expm1(x))
TESSERA_UNARY(log, kPositive, "y = log x", "", math::log(x))
TESSERA_UNARY(log1p, kAboveMinusOne, "y = log(1 + x)", "", math::log1p(x))
TESSERA_UNARY(sqrt, kPositive, "y = √x", "", math::sqrt(x))
TESSERA_UNARY(rsqrt, kPositive, "y = 1 / √x", "", math::rsqrt(x))
TESSERA_UNARY_INTEGRAL(square, kReal, "y = x²", "", math::square(x))
TESSERA_UNARY(reciprocal, kPositive, "y = 1 / x", "", math::reciprocal(x))
TESSERA_UNARY(sin, kReducible, "y = sin x", "", math::sin(x))
TESSERA_UNARY(cos, kReducible, "y = cos x", "", math::cos(x))
TESSERA_UNARY(tanh, kReal, "y = tanh x", "", math::tanh(x))
TESSERA_UNARY(sigmoid, kReal, "y = 1 / (1 + exp(−x))", "", math::sigmoid(x))
TESSERA_UNARY(softplus, kReal, "y = log(1 + exp x)", "", math::softplus(x))
TESSERA_UNARY(log_sigmoid, kReal, "y = −log(1 + exp(−x))", "", math::log_sigmoid(x))
TESSERA_UNARY(erf, kReal, "y = 2/√π ∫₀ˣ exp(−t²) dt", "", math::erf(x))
TESSERA_UNARY_INTEGRAL(abs, kReal, "y = |x|", "", math::abs(x))
TESSERA_UNARY_INTEGRAL(sign, kReal, "y = −1, 0 or 1", "", math::sign(x))
TESSERA_UNARY(floor, kReal, "y = ⌊x⌋", "", math::floor(x))
TESSERA_UNARY(ceil, kReal, "y = ⌈x⌉", "", math::ceil(x))
TESSERA_UNARY(round, kReal, "y = the nearest integer, halves to even", "", math::round(x))

TESSERA_BINARY(pow, kPositive, "y = aᵇ", "", math::pow(a, b))
TESSERA_BINARY_INTEGRAL(minimum, kReal, "y = min(a, b)", "", math::min(a, b))
TESSERA_BINARY_INTEGRAL(maximum, kReal, "y = max(a, b)", "", math::max(a, b))
TESSERA_BINARY_INTEGRAL(remainder, kPositive, "y = a − b ⌊a / b⌋", "Python's %",
                        detail::remainder_of(a, b))

namespace {

struct PowerConstant {
  static constexpr std::string_view name = "pow";
  double p;
  template <class T>
  TESSERA_HD T operator()(T x) const {
    return math::pow(x, constant<T>(p));
  }
};

struct Clamp {
  static constexpr std::string_view name = "clamp";
  static constexpr bool integral = true;
  double low;
  double high;
  template <class T>
  TESSERA_HD T operator()(T x) const {
    return math::clamp(x, constant<T>(low), constant<T>(high));
  }
};

struct Lerp {
  static constexpr std::string_view name = "lerp";
  template <class T>
  TESSERA_HD T operator()(T a, T b, T t) const {
    return a + t * (b - a);
  }
};

struct IsNan {
  static constexpr std::string_view name = "isnan";
  static constexpr bool integral = true;
  template <class T>
  TESSERA_HD bool operator()(T x) const {
    if constexpr (std::is_integral_v<T>) return false;
    return x != x;
  }
};

struct IsFinite {
  static constexpr std::string_view name = "isfinite";
  static constexpr bool integral = true;
  template <class T>
  TESSERA_HD bool operator()(T x) const {
    if constexpr (std::is_integral_v<T>) return true;
    return math::abs(x) <= std::numeric_limits<T>::max();
  }
};

OpInfo predicate_row(const char* name, const char* formula, Tensor (*f)(const Tensor&)) {
  return {.name = name,
          .formula = formula,
          .source = "",
          .orders = 0,
          .samples = [f] { return samples::unary(f); },
          .wrong_calls = {}};
}

const RegisterOp power_row{detail::unary_row("pow_constant", "y = xᵖ", "", detail::kPositive,
                                             [](const Tensor& x) { return pow(x, 1.7); })};
const RegisterOp clamp_row{{
    .name = "clamp",
    .formula = "y = min(max(x, low), high)",
    .source = "",
    .samples = [] { return samples::unary([](const Tensor& x) { return clamp(x, -1, 0.5); }); },
    .wrong_calls = {[] { clamp(samples::normal({2}), 1, 0); },
                    [] { clamp(samples::normal({2}), NAN, 0); }},
}};
const RegisterOp lerp_row{{
    .name = "lerp",
    .formula = "y = a + t (b − a)",
    .source = "",
    .samples =
        [] {
          const TensorFunction run = [](const TensorList& x) {
            return TensorList{lerp(x[0], x[1], x[2])};
          };
          return std::vector<OpSample>{
              {"broadcast",
               {samples::normal({2, 3}), samples::normal({3}, 1), samples::normal({2, 1}, 2)},
               run,
               {}},
              {"size 0",
               {samples::normal({0}), samples::normal({1}, 1), samples::normal({}, 2)},
               run,
               {}}};
        },
    .wrong_calls = {[] { lerp(samples::normal({2}), samples::normal({3}), samples::normal({1})); }},
}};
const RegisterOp isnan_row{predicate_row("isnan", "whether x is NaN", isnan)};
const RegisterOp isfinite_row{predicate_row("isfinite", "whether x is a number", isfinite)};

}  // namespace

Tensor pow(const Tensor& x, double p) {
  if (is_integral(x.dtype())) return pow(x.to(DType::f32), p);
  if (p == 2) return square(x);
  if (p == 0.5) return sqrt(x);
  if (p == -0.5) return rsqrt(x);
  if (p == -1) return reciprocal(x);
  return pointwise(PowerConstant{p}, x);
}

Tensor clamp(const Tensor& x, double low, double high) {
  check(low <= high, "clamp: low {} is above high {}", low, high);
  if (is_integral(x.dtype())) {
    low = std::max(std::ceil(low), -0x1p62);
    high = std::min(std::floor(high), 0x1p62);
  }
  return pointwise(Clamp{low, high}, x);
}

Tensor lerp(const Tensor& a, const Tensor& b, const Tensor& t) {
  return pointwise(Lerp{}, a, b, t);
}

Tensor isnan(const Tensor& x) {
  return predicate(IsNan{}, x);
}
Tensor isfinite(const Tensor& x) {
  return predicate(IsFinite{}, x);
}

}  // namespace tessera
