#include "tessera/autograd/ops/comparison.h"

#include <cmath>

#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/pointwise.h"
#include "tessera/autograd/registry.h"
#include "tessera/core/create.h"

namespace tessera {
namespace {

enum class Relation { eq, ne, lt, le, gt, ge };
constexpr std::string_view kNames[] = {"eq", "ne", "lt", "le", "gt", "ge"};

template <Relation R, class T>
TESSERA_HD bool holds(T a, T b) {
  switch (R) {
    case Relation::eq:
      return a == b;
    case Relation::ne:
      return a != b;
    case Relation::lt:
      return a < b;
    case Relation::le:
      return a <= b;
    case Relation::gt:
      return a > b;
    case Relation::ge:
      break;
  }
  return a >= b;
}

template <Relation R>
struct Compare {
  static constexpr std::string_view name = kNames[static_cast<int>(R)];
  static constexpr bool integral = true;
  template <class T>
  TESSERA_HD bool operator()(T a, T b) const {
    return holds<R>(a, b);
  }
};

template <Relation R>
struct CompareConstant {
  static constexpr std::string_view name = kNames[static_cast<int>(R)];
  static constexpr bool integral = true;
  double constant;
  template <class T>
  TESSERA_HD bool operator()(T x) const {
    if constexpr (std::is_integral_v<T>) return holds<R>(static_cast<double>(x), constant);
    return holds<R>(x, static_cast<T>(constant));
  }
};

struct And {
  static constexpr std::string_view name = "logical_and";
  static constexpr bool integral = true;
  template <class T>
  TESSERA_HD bool operator()(T a, T b) const {
    return (a != 0) & (b != 0);
  }
};

struct Or {
  static constexpr std::string_view name = "logical_or";
  static constexpr bool integral = true;
  template <class T>
  TESSERA_HD bool operator()(T a, T b) const {
    return (a != 0) | (b != 0);
  }
};

struct Not {
  static constexpr std::string_view name = "logical_not";
  static constexpr bool integral = true;
  template <class T>
  TESSERA_HD bool operator()(T x) const {
    return x == 0;
  }
};

struct Choose {
  static constexpr std::string_view name = "where";
  static constexpr bool integral = true;
  template <class T>
  TESSERA_HD T operator()(T condition, T a, T b) const {
    return condition != 0 ? a : b;
  }
};

struct Fill {
  static constexpr std::string_view name = "masked_fill";
  static constexpr bool integral = true;
  double value;
  template <class T>
  TESSERA_HD T operator()(T x, T mask) const {
    return mask != 0 ? constant<T>(value) : x;
  }
};

// Without dual numbers: these know their gradients, and pass on no 0 · NaN.
template <class F, std::same_as<Tensor>... In>
Tensor evaluate(const F& f, const In&... inputs) {
  const std::array<Tensor, sizeof...(In)> list = {inputs...};
  return detail::run_pointwise(detail::forward_kernel<F, sizeof...(In)>(f), list);
}

struct Where {
  static constexpr std::string_view name = "where";
  Shape shapes[2];
  DType dtypes[2];

  Tensor forward(Forward& f, const Tensor& condition, const Tensor& a, const Tensor& b) const {
    f.save(condition);
    return evaluate(Choose{}, condition, a, b);
  }
  void backward(Backward& b) const {
    const Tensor& g = b.grad();
    const Tensor zero = scalar(0, {g.dtype(), g.device()});
    for (int i = 0; i < 2; ++i) {
      if (!b.needs(i + 1)) continue;
      const Tensor part = i == 0 ? where(b.saved(0), g, zero) : where(b.saved(0), zero, g);
      b.add(i + 1, sum_to(part, shapes[i]).to(dtypes[i]));
    }
  }
};

struct MaskedFill {
  static constexpr std::string_view name = "masked_fill";
  double value;
  Tensor forward(Forward& f, const Tensor& x, const Tensor& mask) const {
    f.save(mask);
    return evaluate(Fill{value}, x, mask);
  }
  void backward(Backward& b) const { b.add(0, masked_fill(b.grad(), b.saved(0), 0)); }
};

Tensor nonzero_counts(const Tensor& x, const Shape& dims, bool keep_dims, std::string_view op) {
  return sum(ne(x.detach(), 0), normalize_dims(dims, x.rank(), op), keep_dims);
}

OpSample sample(const char* label, const TensorList& inputs, const TensorFunction& run) {
  return {label, inputs, run, {}};
}

OpInfo compare_row(std::string_view name, const char* formula,
                   Tensor (*f)(const Tensor&, const Tensor&)) {
  return {.name = std::string(name),
          .formula = formula,
          .source = "",
          .orders = 0,
          .samples = [f] { return samples::binary(f); },
          .wrong_calls = {[f] { f(samples::normal({2}), samples::normal({3})); }}};
}

OpInfo any_row(const char* name, const char* formula,
               Tensor (*f)(const Tensor&, const Shape&, bool)) {
  return {.name = name,
          .formula = formula,
          .source = "",
          .orders = 0,
          .samples =
              [f] {
                return std::vector<OpSample>{
                    sample("(2, 3) over 1", {samples::normal({2, 3})},
                           [f](const TensorList& x) { return TensorList{f(x[0], {1}, false)}; })};
              },
          .wrong_calls = {[f] { f(samples::normal({2}), {1}, false); }}};
}

using Pair = Tensor (*)(const Tensor&, const Tensor&);
const RegisterOp eq_row{compare_row("eq", "y = (a = b)", Pair{eq})};
const RegisterOp ne_row{compare_row("ne", "y = (a ≠ b)", Pair{ne})};
const RegisterOp lt_row{compare_row("lt", "y = (a < b)", Pair{lt})};
const RegisterOp le_row{compare_row("le", "y = (a ≤ b)", Pair{le})};
const RegisterOp gt_row{compare_row("gt", "y = (a > b)", Pair{gt})};
const RegisterOp ge_row{compare_row("ge", "y = (a ≥ b)", Pair{ge})};
const RegisterOp and_row{compare_row("logical_and", "y = a ∧ b", logical_and)};
const RegisterOp or_row{compare_row("logical_or", "y = a ∨ b", logical_or)};
const RegisterOp not_row{{
    .name = "logical_not",
    .formula = "y = ¬x",
    .source = "",
    .orders = 0,
    .samples = [] { return samples::unary(logical_not); },
    .wrong_calls = {},
}};
const RegisterOp any_registered{any_row("any", "whether some x over dims is true", any)};
const RegisterOp all_registered{any_row("all", "whether every x over dims is true", all)};

const RegisterOp where_row{{
    .name = "where",
    .formula = "y = condition ? a : b",
    .source = "NumPy's broadcasting",
    .samples =
        [] {
          const Tensor condition = gt(samples::normal({2, 3}), 0);
          const TensorFunction run = [](const TensorList& x) {
            return TensorList{where(x[0], x[1], x[2])};
          };
          return std::vector<OpSample>{
              sample("equal shapes",
                     {condition, samples::normal({2, 3}, 1), samples::normal({2, 3}, 2)}, run),
              sample("broadcast", {condition, samples::normal({3}, 1), samples::normal({2, 1}, 2)},
                     run),
              sample("broadcast condition",
                     {gt(samples::normal({3}), 0), samples::normal({2, 3}, 1), samples::normal({})},
                     run),
              sample("strided",
                     {condition, samples::strided(samples::normal({2, 3}, 1)),
                      samples::normal({2, 3}, 2)},
                     run),
              sample("size 0",
                     {gt(samples::normal({1}), 0), samples::normal({2, 0}), samples::normal({1})},
                     run)};
        },
    .wrong_calls = {
        [] { where(samples::normal({2}), samples::normal({2}), samples::normal({2})); },
        [] { where(gt(samples::normal({2}), 0), samples::normal({3}), samples::normal({1})); }},
}};

const RegisterOp masked_fill_row{{
    .name = "masked_fill",
    .formula = "y = mask ? value : x",
    .source = "",
    .samples =
        [] {
          const TensorFunction run = [](const TensorList& x) {
            return TensorList{masked_fill(x[0], x[1], -3)};
          };
          return std::vector<OpSample>{
              sample("equal shapes", {samples::normal({2, 3}), gt(samples::normal({2, 3}, 1), 0)},
                     run),
              sample("broadcast mask", {samples::normal({2, 3}), gt(samples::normal({2, 1}, 1), 0)},
                     run),
              sample("strided",
                     {samples::strided(samples::normal({2, 3})), gt(samples::normal({3}, 1), 0)},
                     run),
              sample("size 0", {samples::normal({0, 3}), gt(samples::normal({3}), 0)}, run)};
        },
    .wrong_calls = {
        [] { masked_fill(samples::normal({2}), samples::normal({2}), 0); },
        [] {
          masked_fill(samples::normal({3}), gt(samples::normal({2, 3}), 0), 0);
        },
        [] { masked_fill(samples::integers({2}, 0, 3), gt(samples::normal({2}), 0), 0.5); }},
}};

void check_bool(const Tensor& x, std::string_view op, std::string_view what) {
  check(x.dtype() == DType::boolean, "{}: the {} is {}, not bool; compare it with ne(x, 0)", op,
        what, x.dtype());
}

}  // namespace

Tensor eq(const Tensor& a, const Tensor& b) {
  return predicate(Compare<Relation::eq>{}, a, b);
}
Tensor ne(const Tensor& a, const Tensor& b) {
  return predicate(Compare<Relation::ne>{}, a, b);
}
Tensor lt(const Tensor& a, const Tensor& b) {
  return predicate(Compare<Relation::lt>{}, a, b);
}
Tensor le(const Tensor& a, const Tensor& b) {
  return predicate(Compare<Relation::le>{}, a, b);
}
Tensor gt(const Tensor& a, const Tensor& b) {
  return predicate(Compare<Relation::gt>{}, a, b);
}
Tensor ge(const Tensor& a, const Tensor& b) {
  return predicate(Compare<Relation::ge>{}, a, b);
}
Tensor eq(const Tensor& a, double b) {
  return predicate(CompareConstant<Relation::eq>{b}, a);
}
Tensor ne(const Tensor& a, double b) {
  return predicate(CompareConstant<Relation::ne>{b}, a);
}
Tensor lt(const Tensor& a, double b) {
  return predicate(CompareConstant<Relation::lt>{b}, a);
}
Tensor le(const Tensor& a, double b) {
  return predicate(CompareConstant<Relation::le>{b}, a);
}
Tensor gt(const Tensor& a, double b) {
  return predicate(CompareConstant<Relation::gt>{b}, a);
}
Tensor ge(const Tensor& a, double b) {
  return predicate(CompareConstant<Relation::ge>{b}, a);
}

Tensor logical_and(const Tensor& a, const Tensor& b) {
  return predicate(And{}, a, b);
}
Tensor logical_or(const Tensor& a, const Tensor& b) {
  return predicate(Or{}, a, b);
}
Tensor logical_not(const Tensor& x) {
  return predicate(Not{}, x);
}

Tensor any(const Tensor& x, const Shape& dims, bool keep_dims) {
  return gt(nonzero_counts(x, dims, keep_dims, "any"), 0);
}
Tensor all(const Tensor& x, const Shape& dims, bool keep_dims) {
  const Tensor zeros = logical_not(x.detach());
  return eq(nonzero_counts(zeros, dims, keep_dims, "all"), 0);
}

Tensor where(const Tensor& condition, const Tensor& a, const Tensor& b) {
  check_bool(condition, "where", "condition");
  return apply(Where{{a.shape(), b.shape()}, {a.dtype(), b.dtype()}}, condition, a, b);
}

Tensor masked_fill(const Tensor& x, const Tensor& mask, double value) {
  check_bool(mask, "masked_fill", "mask");
  check(broadcast_shapes(x.shape(), mask.shape(), "masked_fill") == x.shape(),
        "masked_fill: a mask of shape {} does not broadcast to {}", mask.shape(), x.shape());
  check(is_floating(x.dtype()) || std::floor(value) == value,
        "masked_fill: {} is not an integer for a tensor of dtype {}", value, x.dtype());
  return apply(MaskedFill{value}, x, mask);
}

}  // namespace tessera
