#include "tessera/autograd/ops/activation.h"

#include "tessera/autograd/ops/define.h"
#include "tessera/autograd/ops/elementwise.h"

namespace tessera {
namespace detail {
namespace {

// Shared by the plain and the gated form.
template <class T>
TESSERA_HD T gelu_of(T x) {  // x/2 (1 + erf(x/√2))
  return constant<T>(0.5) * x * (constant<T>(1) + math::erf(x * constant<T>(0.70710678118654752)));
}
template <class T>
TESSERA_HD T silu_of(T x) {
  return x * math::sigmoid(x);
}
template <class T>
TESSERA_HD T relu_of(T x) {
  return math::max(constant<T>(0), x);
}
template <class T>
TESSERA_HD T elu_of(T x, scalar_of_t<T> alpha) {
  return math::select(x > constant<T>(0), x, alpha * math::expm1(x));
}
// tanh(log(1 + e)) = n / (n + 2) with n = e (e + 2); beyond 20 it is 1.
template <class T>
TESSERA_HD T mish_of(T x) {
  const T e = math::exp(math::min(x, constant<T>(20)));
  const T n = e * (e + constant<T>(2));
  return x * (n / (n + constant<T>(2)));
}

}  // namespace
}  // namespace detail

TESSERA_ACTIVATION(relu, kReal, "y = max(0, x)", "", detail::relu_of(x))
TESSERA_ACTIVATION(selu, kReal, "y = 1.0507 (x > 0 ? x : 1.6733 (exp x − 1))",
                   "Klambauer et al. 2017, Self-Normalizing Neural Networks",
                   constant<T>(1.0507009873554805) *
                       detail::elu_of(x, constant<T>(1.6732632423543772)))
TESSERA_ACTIVATION(gelu, kReal, "y = x/2 (1 + erf(x/√2))",
                   "Hendrycks & Gimpel 2016, Gaussian Error Linear Units", detail::gelu_of(x))
// (1 + tanh u) / 2 = sigmoid(2 u), with 2 √(2/π) = 1.5957…
TESSERA_ACTIVATION(gelu_tanh, kReal, "y = x/2 (1 + tanh(√(2/π) (x + 0.044715 x³)))",
                   "Hendrycks & Gimpel 2016, Gaussian Error Linear Units",
                   x* math::sigmoid(x*(constant<T>(1.5957691216057308) +
                                       constant<T>(0.07135481627159881) * (x * x))))
Tensor gelu_tanh_gradient(const Tensor& grad, const Tensor& x) {
  return pointwise_derivative<0>(gelu_tanh_functor{}, grad, x);
}
TESSERA_ACTIVATION(quick_gelu, kReal, "y = x sigmoid(1.702 x)",
                   "Hendrycks & Gimpel 2016, Gaussian Error Linear Units",
                   x* math::sigmoid(constant<T>(1.702) * x))
TESSERA_ACTIVATION(silu, kReal, "y = x sigmoid(x)",
                   "Elfwing et al. 2017, Sigmoid-Weighted Linear Units", detail::silu_of(x))
TESSERA_ACTIVATION(mish, kReal, "y = x tanh(log(1 + exp x))",
                   "Misra 2019, Mish: A Self Regularized Non-Monotonic Activation Function",
                   detail::mish_of(x))
TESSERA_ACTIVATION(softsign, kReal, "y = x / (1 + |x|)", "", x / (constant<T>(1) + math::abs(x)))
TESSERA_ACTIVATION(hardswish, kReal, "y = x min(max(x + 3, 0), 6) / 6",
                   "Howard et al. 2019, Searching for MobileNetV3",
                   x* math::clamp(x + constant<T>(3), constant<T>(0), constant<T>(6)) *
                       constant<T>(1.0 / 6))
TESSERA_ACTIVATION(relu_squared, kReal, "y = max(0, x)²",
                   "So et al. 2021, Primer: Searching for Efficient Transformers",
                   math::square(detail::relu_of(x)))
TESSERA_ACTIVATION(tanhshrink, kReal, "y = x − tanh x", "", x - math::tanh(x))

TESSERA_BINARY(swiglu, kReal, "y = gate sigmoid(gate) up",
               "Shazeer 2020, GLU Variants Improve Transformer", detail::silu_of(a) * b)
TESSERA_BINARY(geglu, kReal, "y = gelu(gate) up", "Shazeer 2020, GLU Variants Improve Transformer",
               detail::gelu_of(a) * b)
TESSERA_BINARY(reglu, kReal, "y = max(0, gate) up",
               "Shazeer 2020, GLU Variants Improve Transformer", detail::relu_of(a) * b)
TESSERA_BINARY(glu_sigmoid, kReal, "y = sigmoid(gate) up",
               "Dauphin et al. 2017, Language Modeling with Gated Convolutional Networks",
               math::sigmoid(a) * b)

namespace {

struct LeakyRelu {
  static constexpr std::string_view name = "leaky_relu";
  double slope;
  template <class T>
  TESSERA_HD T operator()(T x) const {
    return math::select(x > constant<T>(0), x, constant<T>(slope) * x);
  }
};

struct Elu {
  static constexpr std::string_view name = "elu";
  double alpha;
  template <class T>
  TESSERA_HD T operator()(T x) const {
    return detail::elu_of(x, constant<T>(alpha));
  }
};

struct Softcap {
  static constexpr std::string_view name = "softcap";
  double cap;
  template <class T>
  TESSERA_HD T operator()(T x) const {
    return constant<T>(cap) * math::tanh(x * constant<T>(1 / cap));
  }
};

struct SmoothStep {
  static constexpr std::string_view name = "smooth_step";
  double gamma;
  template <class T>
  TESSERA_HD T operator()(T x) const {
    const T u =
        math::clamp(x * constant<T>(1 / gamma) + constant<T>(0.5), constant<T>(0), constant<T>(1));
    return u * u * (constant<T>(3) - constant<T>(2) * u);
  }
};

Tensor leaky_relu_default(const Tensor& x) {
  return leaky_relu(x);
}
Tensor elu_default(const Tensor& x) {
  return elu(x);
}
Tensor hardtanh_default(const Tensor& x) {
  return hardtanh(x);
}
Tensor identity(const Tensor& x) {
  return x;
}

const RegisterOp leaky_relu_row{
    detail::unary_row("leaky_relu", "y = x > 0 ? x : slope x",
                      "Maas et al. 2013, Rectifier Nonlinearities Improve Neural Network Acoustic "
                      "Models",
                      detail::kReal, leaky_relu_default)};
const RegisterOp elu_row{detail::unary_row("elu", "y = x > 0 ? x : α (exp x − 1)",
                                           "Clevert et al. 2015, Exponential Linear Units",
                                           detail::kReal, elu_default)};
OpInfo softcap_info() {
  OpInfo row = detail::unary_row("softcap", "y = c tanh(x / c)", "Gemma Team 2024, Gemma 2",
                                 detail::kReal, [](const Tensor& x) { return softcap(x, 1.5); });
  row.wrong_calls = {[] { softcap(samples::normal({2}), 0); }};
  return row;
}
const RegisterOp softcap_row{softcap_info()};
OpInfo smooth_step_info() {
  OpInfo row = detail::unary_row("smooth_step", "y = 3u² − 2u³, u = clamp(x / γ + ½, 0, 1)",
                                 "Hazimeh et al. 2020, The Tree Ensemble Layer", detail::kReal,
                                 [](const Tensor& x) { return smooth_step(x, 2.5); });
  row.wrong_calls = {[] { smooth_step(samples::normal({2}), 0); }};
  return row;
}
const RegisterOp smooth_step_row{smooth_step_info()};

const RegisterActivation activations[] = {{"leaky_relu", leaky_relu_default},
                                          {"elu", elu_default},
                                          {"hardtanh", hardtanh_default},
                                          {"relu2", relu_squared},
                                          {"tanh", tanh},
                                          {"sigmoid", sigmoid},
                                          {"softplus", softplus},
                                          {"swish", silu},
                                          {"identity", identity}};

}  // namespace

Tensor leaky_relu(const Tensor& x, double slope) {
  return pointwise(LeakyRelu{slope}, x);
}
Tensor elu(const Tensor& x, double alpha) {
  return pointwise(Elu{alpha}, x);
}
Tensor hardtanh(const Tensor& x, double low, double high) {
  return clamp(x, low, high);
}
Tensor softcap(const Tensor& x, double cap) {
  check(cap > 0, "softcap: cap {} is not positive", cap);
  return pointwise(Softcap{cap}, x);
}
Tensor smooth_step(const Tensor& x, double gamma) {
  check(gamma > 0, "smooth_step: gamma {} is not positive", gamma);
  return pointwise(SmoothStep{gamma}, x);
}

}  // namespace tessera
