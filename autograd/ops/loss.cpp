#include "tessera/autograd/ops/loss.h"

#include "tessera/autograd/ops/arguments.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/pointwise.h"
#include "tessera/autograd/registry.h"
#include "tessera/core/create.h"

namespace tessera {
namespace {

struct BinaryCrossEntropy {
  static constexpr std::string_view name = "binary_cross_entropy_with_logits";
  template <class T>
  TESSERA_HD T operator()(T x, T t) const {
    return math::softplus(x) - t * x;
  }
};

struct SquaredError {
  static constexpr std::string_view name = "mse_loss";
  template <class T>
  TESSERA_HD T operator()(T x, T y) const {
    return math::square(x - y);
  }
};

struct AbsoluteError {
  static constexpr std::string_view name = "l1_loss";
  template <class T>
  TESSERA_HD T operator()(T x, T y) const {
    return math::abs(x - y);
  }
};

struct SmoothL1 {
  static constexpr std::string_view name = "smooth_l1_loss";
  double beta;
  template <class T>
  TESSERA_HD T operator()(T x, T y) const {
    const T d = math::abs(x - y);
    const auto b = constant<T>(beta);
    return math::select(d < b, constant<T>(0.5) * d * d / b, d - constant<T>(0.5) * b);
  }
};

struct Huber {
  static constexpr std::string_view name = "huber_loss";
  double delta;
  template <class T>
  TESSERA_HD T operator()(T x, T y) const {
    const T d = math::abs(x - y);
    const auto c = constant<T>(delta);
    const auto half = constant<T>(0.5);
    return math::select(d <= c, half * d * d, c * (d - half * c));
  }
};

struct Divergence {
  static constexpr std::string_view name = "kl_div";
  template <class T>
  TESSERA_HD T operator()(T log_p, T q) const {
    return math::select(q == constant<T>(0), constant<T>(0), q * (math::log(q) - log_p));
  }
};

template <class F>
Tensor losses(const F& f, const Tensor& x, const Tensor& y) {
  check(x.shape() == y.shape(), "{}: shapes differ: {} and {}", F::name, x.shape(), y.shape());
  const auto [a, b] = detail::promoted(F::name, x, y);
  return pointwise(f, a, b);
}

template <class F>
Tensor loss(const F& f, const Tensor& x, const Tensor& y, Reduction reduction) {
  return detail::reduced(losses(f, x, y), reduction, x.numel());
}

using Loss = std::function<Tensor(const Tensor&, const Tensor&, Reduction)>;

OpInfo row(const char* name, const char* formula, const char* source, const Loss& f,
           double low = -2) {
  const auto all = [f, low] {
    std::vector<OpSample> list;
    for (const Shape& shape : {Shape{}, Shape{1}, Shape{2, 3}, Shape{2, 0}}) {
      list.push_back({to_string(shape),
                      {samples::uniform(shape, -2, 2, 1), samples::uniform(shape, low, 2, 2)},
                      [f](const TensorList& x) {
                        return TensorList{f(x[0], x[1], Reduction::mean),
                                          f(x[0], x[1], Reduction::sum),
                                          f(x[0], x[1], Reduction::none)};
                      },
                      {}});
    }
    list.push_back({"strided",
                    {samples::strided(samples::uniform({3, 4}, -2, 2, 1)),
                     samples::strided(samples::uniform({3, 4}, low, 2, 2))},
                    [f](const TensorList& x) { return TensorList{f(x[0], x[1], Reduction::mean)}; },
                    {}});
    return list;
  };
  return {
      .name = name,
      .formula = formula,
      .source = source,
      .samples = all,
      .wrong_calls = {
          [f] { f(samples::normal({2}), samples::normal({1}), Reduction::mean); },
          [f] { f(samples::integers({2}, 0, 2), samples::integers({2}, 0, 2), Reduction::mean); }}};
}

const RegisterOp bce_row{
    row("binary_cross_entropy_with_logits", "softplus(x) − t x", "",
        [](const Tensor& x, const Tensor& t, Reduction r) {
          const Options like{is_floating(x.dtype()) ? x.dtype() : DType::f32, x.device()};
          const auto count = static_cast<double>(x.numel());
          const Tensor weight = reshape(arange(0.5, count + 0.5, 1, like), x.shape());
          return binary_cross_entropy_with_logits(x, t, {}, r) +
                 binary_cross_entropy_with_logits(x, t, weight, r);
        })};
const RegisterOp mse_row{row("mse_loss", "(x − y)²", "", mse_loss)};
const RegisterOp l1_row{row("l1_loss", "|x − y|", "", l1_loss)};
const RegisterOp smooth_row{row("smooth_l1_loss", "d²/(2β) for d = |x − y| < β, else d − β/2",
                                "Girshick 2015", [](const Tensor& x, const Tensor& y, Reduction r) {
                                  return smooth_l1_loss(x, y, 0.7, r) + smooth_l1_loss(x, y, 0, r);
                                })};
const RegisterOp huber_row{
    row("huber_loss", "d²/2 for d = |x − y| ≤ δ, else δ (d − δ/2)", "Huber 1964",
        [](const Tensor& x, const Tensor& y, Reduction r) { return huber_loss(x, y, 0.7, r); })};
const RegisterOp kl_row{row("kl_div", "q (log q − log p)", "", kl_div, 0.1)};

}  // namespace

Tensor binary_cross_entropy_with_logits(const Tensor& logits, const Tensor& targets,
                                        const Tensor& weight, Reduction reduction) {
  Tensor each = losses(BinaryCrossEntropy{}, logits, targets);
  if (weight.defined()) {
    check(broadcast_shapes(each.shape(), weight.shape(), BinaryCrossEntropy::name) == each.shape(),
          "binary_cross_entropy_with_logits: weight {} does not broadcast to {}", weight.shape(),
          each.shape());
    each = each * weight.to(each.dtype());
  }
  return detail::reduced(each, reduction, each.numel());
}

Tensor mse_loss(const Tensor& x, const Tensor& y, Reduction reduction) {
  return loss(SquaredError{}, x, y, reduction);
}

Tensor l1_loss(const Tensor& x, const Tensor& y, Reduction reduction) {
  return loss(AbsoluteError{}, x, y, reduction);
}

Tensor smooth_l1_loss(const Tensor& x, const Tensor& y, double beta, Reduction reduction) {
  check(beta >= 0, "smooth_l1_loss: beta must not be negative, got {}", beta);
  return loss(SmoothL1{beta}, x, y, reduction);
}

Tensor huber_loss(const Tensor& x, const Tensor& y, double delta, Reduction reduction) {
  check(delta > 0, "huber_loss: delta must be positive, got {}", delta);
  return loss(Huber{delta}, x, y, reduction);
}

Tensor kl_div(const Tensor& log_p, const Tensor& q, Reduction reduction) {
  return loss(Divergence{}, log_p, q, reduction);
}

}  // namespace tessera
