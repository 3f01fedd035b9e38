#include "tessera/autograd/ops/arithmetic.h"

#include <cmath>

#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/pointwise.h"
#include "tessera/autograd/registry.h"
#include "tessera/core/create.h"

namespace tessera {
namespace {

// Linear functions have simpler derivatives than dual numbers would compute, so the three ops that
// every model is full of say them themselves: no pass over memory where a gradient is passed on.
Tensor fit(const Tensor& g, const Shape& shape, DType dtype);

struct Sum2 {
  static constexpr std::string_view name = "add";
  static constexpr bool integral = true;
  template <class T>
  TESSERA_HD T operator()(T a, T b) const {
    return a + b;
  }
};

struct Difference {
  static constexpr std::string_view name = "sub";
  static constexpr bool integral = true;
  template <class T>
  TESSERA_HD T operator()(T a, T b) const {
    return a - b;
  }
};

struct Product {
  static constexpr std::string_view name = "mul";
  static constexpr bool integral = true;
  template <class T>
  TESSERA_HD T operator()(T a, T b) const {
    return a * b;
  }
};

struct Quotient {
  static constexpr std::string_view name = "div";
  template <class T>
  TESSERA_HD T operator()(T a, T b) const {
    return a / b;
  }
};

struct ScaleShift {
  static constexpr std::string_view name = "affine";
  static constexpr bool integral = true;
  double scale;
  double shift;
  template <class T>
  TESSERA_HD T operator()(T x) const {
    return constant<T>(scale) * x + constant<T>(shift);
  }
};

template <class F, std::same_as<Tensor>... In>
Tensor evaluate(const F& f, const In&... inputs) {
  const std::array<Tensor, sizeof...(In)> list = {inputs...};
  return detail::run_pointwise(detail::forward_kernel<F, sizeof...(In)>(f), list);
}

struct Kept {
  Shape shape;
  DType dtype = DType::f32;
};

// a ± b: the gradient passes through, signed.
template <class F>
struct AddOp {
  static constexpr std::string_view name = F::name;
  Kept a;
  Kept b;
  double sign;
  Tensor forward(Forward&, const Tensor& x, const Tensor& y) const { return evaluate(F{}, x, y); }
  void backward(Backward& back) const {
    const Tensor& g = back.grad();
    if (back.needs(0)) back.add(0, fit(g, a.shape, a.dtype));
    if (back.needs(1)) back.add(1, fit(sign < 0 ? neg(g) : g, b.shape, b.dtype));
  }
};

struct MulOp {
  static constexpr std::string_view name = "mul";
  Kept a;
  Kept b;
  Tensor forward(Forward& f, const Tensor& x, const Tensor& y) const {
    f.save(x, y);
    return evaluate(Product{}, x, y);
  }
  void backward(Backward& back) const {
    const Tensor& g = back.grad();
    if (back.needs(0)) back.add(0, fit(g * back.saved(1), a.shape, a.dtype));
    if (back.needs(1)) back.add(1, fit(g * back.saved(0), b.shape, b.dtype));
  }
};

struct AffineOp {
  static constexpr std::string_view name = "affine";
  ScaleShift f;
  Tensor forward(Forward&, const Tensor& x) const { return evaluate(f, x); }
  void backward(Backward& back) const { back.add(0, affine(back.grad(), f.scale, 0)); }
};

Tensor fit(const Tensor& g, const Shape& shape, DType dtype) {
  return sum_to(g, shape).to(dtype);
}

Kept kept(const Tensor& x) {
  return {x.shape(), x.dtype()};
}

template <class F>
OpInfo binary_row(const char* formula, Tensor (*op)(const Tensor&, const Tensor&), double low) {
  return {.name = std::string(F::name),
          .formula = formula,
          .source = "NumPy's broadcasting",
          .samples = [op, low] { return samples::binary(op, low, 2); },
          .wrong_calls = {[op] { op(samples::normal({2}), samples::normal({3})); }}};
}

const RegisterOp add_row{binary_row<Sum2>("y = a + b", add, -2)};
const RegisterOp sub_row{binary_row<Difference>("y = a − b", sub, -2)};
const RegisterOp mul_row{binary_row<Product>("y = a b", mul, -2)};
const RegisterOp div_row{binary_row<Quotient>("y = a / b", div, 0.5)};
const RegisterOp affine_row{{
    .name = "affine",
    .formula = "y = scale · x + shift",
    .source = "",
    .samples = [] { return samples::unary([](const Tensor& x) { return affine(x, -3, 0.5); }); },
    .wrong_calls = {[] { affine(samples::integers({2}, 0, 3), 0.5, 0); }},
}};

}  // namespace

Tensor add(const Tensor& a, const Tensor& b) {
  return apply(AddOp<Sum2>{kept(a), kept(b), 1}, a, b);
}
Tensor sub(const Tensor& a, const Tensor& b) {
  return apply(AddOp<Difference>{kept(a), kept(b), -1}, a, b);
}
Tensor mul(const Tensor& a, const Tensor& b) {
  return apply(MulOp{kept(a), kept(b)}, a, b);
}
Tensor div(const Tensor& a, const Tensor& b) {
  return pointwise(Quotient{}, a, b);
}
Tensor neg(const Tensor& x) {
  return affine(x, -1, 0);
}

Tensor affine(const Tensor& x, double scale, double shift) {
  check(is_floating(x.dtype()) || (std::floor(scale) == scale && std::floor(shift) == shift),
        "affine: {} x + {} is not an integer for a tensor of dtype {}; convert it with to()", scale,
        shift, x.dtype());
  return apply(AffineOp{{scale, shift}}, x);
}

Tensor operator/(double a, const Tensor& b) {
  return div(
      full({}, a,
           {promote(b.dtype(), DType::f32) == DType::f64 ? DType::f64 : DType::f32, b.device()}),
      b);
}

}  // namespace tessera
