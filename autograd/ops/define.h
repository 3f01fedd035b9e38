// Pointwise functions in one statement each, for .cpp files of ops:
//
//   TESSERA_UNARY(softsign, kReal, "y = x / (1 + |x|)", "", x / (constant<T>(1) + math::abs(x)))
//   TESSERA_BINARY(swiglu, kReal, "y = silu(a) b", "Shazeer 2020", a * math::sigmoid(a) * b)
//
// defines the functor and the function that a header declares, and registers its row: gradient
// checks, the sweep over extreme values, the line in `tessera list op`. The …_INTEGRAL forms keep
// integers as integers.
#pragma once

#include "tessera/autograd/pointwise.h"
#include "tessera/autograd/registry.h"

namespace tessera::detail {

constexpr Interval kReal{-INFINITY, INFINITY};
constexpr Interval kPositive{0, INFINITY};

using Unary = std::function<Tensor(const Tensor&)>;
using Binary = std::function<Tensor(const Tensor&, const Tensor&)>;

// Rows of functions with samples inside `domain` (and inside [−2, 2], a little off its ends).
OpInfo unary_row(std::string name, std::string formula, std::string source, Interval domain,
                 const Unary& f);
OpInfo binary_row(std::string name, std::string formula, std::string source, Interval domain,
                  const Binary& f);

}  // namespace tessera::detail

#define TESSERA_POINTWISE(NAME, INTEGRAL, KIND, DOMAIN, FORMULA, SOURCE, PARAMETERS, INPUTS, CALL, \
                          ...)                                                                     \
  namespace {                                                                                      \
  struct NAME##_functor {                                                                          \
    static constexpr std::string_view name = #NAME;                                                \
    static constexpr bool integral = INTEGRAL;                                                     \
    template <class T>                                                                             \
    TESSERA_HD T operator() PARAMETERS const {                                                     \
      return __VA_ARGS__;                                                                          \
    }                                                                                              \
  };                                                                                               \
  const RegisterOp NAME##_row{detail::KIND##_row(#NAME, FORMULA, SOURCE, detail::DOMAIN,           \
                                                 static_cast<Tensor(*) INPUTS>(NAME))};            \
  }                                                                                                \
  Tensor NAME INPUTS {                                                                             \
    return pointwise CALL;                                                                         \
  }

#define TESSERA_UNARY_AS(NAME, INTEGRAL, DOMAIN, FORMULA, SOURCE, ...)                        \
  TESSERA_POINTWISE(NAME, INTEGRAL, unary, DOMAIN, FORMULA, SOURCE, (T x), (const Tensor& x), \
                    (NAME##_functor{}, x), __VA_ARGS__)
#define TESSERA_BINARY_AS(NAME, INTEGRAL, DOMAIN, FORMULA, SOURCE, ...)          \
  TESSERA_POINTWISE(NAME, INTEGRAL, binary, DOMAIN, FORMULA, SOURCE, (T a, T b), \
                    (const Tensor& a, const Tensor& b), (NAME##_functor{}, a, b), __VA_ARGS__)

#define TESSERA_UNARY(NAME, ...) TESSERA_UNARY_AS(NAME, false, __VA_ARGS__)
#define TESSERA_UNARY_INTEGRAL(NAME, ...) TESSERA_UNARY_AS(NAME, true, __VA_ARGS__)
#define TESSERA_BINARY(NAME, ...) TESSERA_BINARY_AS(NAME, false, __VA_ARGS__)
#define TESSERA_BINARY_INTEGRAL(NAME, ...) TESSERA_BINARY_AS(NAME, true, __VA_ARGS__)

// TESSERA_UNARY that configs also know by name.
#define TESSERA_ACTIVATION(NAME, ...)                      \
  TESSERA_UNARY(NAME, __VA_ARGS__)                         \
  namespace {                                              \
  const RegisterActivation NAME##_activation{#NAME, NAME}; \
  }
