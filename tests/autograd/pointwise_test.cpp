// Pointwise functions: the engine, and every registered function over extreme values.
#include "tessera/autograd/pointwise.h"

#include <doctest/doctest.h>

#include <cmath>

#include "tessera/autograd/ops/activation.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/elementwise.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/registry.h"
#include "tessera/core/create.h"
#include "tessera/core/random.h"

using namespace tessera;

namespace {

// ±0, denormals and ±1e-30 … ±1e30, in f32, inside the interval.
std::vector<float> extreme_values(Interval domain) {
  std::vector<float> magnitudes = {0, 1e-45f, 1e-40f, 1.17549435e-38f};
  for (int e = -30; e <= 30; ++e) {
    for (double m : {1.0, 2.5, 7.0}) {
      magnitudes.push_back(static_cast<float>(m * std::pow(10.0, e)));
    }
  }
  for (float x = 0.5f; x < 110; x += 0.5f) magnitudes.push_back(x);
  std::vector<float> values;
  for (float m : magnitudes) {
    for (float x : {m, -m}) {
      if (x >= domain.low && x <= domain.high) values.push_back(x);
    }
  }
  return values;
}

void check_sweep(const std::string& name, Interval domain,
                 const std::function<Tensor(const Tensor&)>& f) {
  const std::vector<float> values = extreme_values(domain);
  Tensor x = from_values(values, {static_cast<int64_t>(values.size())});
  x.set_requires_grad();
  const Tensor y = f(x);
  y.backward(ones_like(y));
  const auto value = y.to_vector<float>();
  const auto slope = x.grad().to_vector<float>();
  for (size_t i = 0; i < values.size(); ++i) {
    CAPTURE(name);
    CAPTURE(values[i]);
    CHECK_FALSE(std::isnan(value[i]));
    CHECK_FALSE(std::isnan(slope[i]));
  }
}

double at(Tensor (*f)(const Tensor&), double x) {
  return f(scalar(x, {DType::f64, {}})).item();
}

}  // namespace

TEST_CASE("no registered pointwise function is NaN, nor its slope, at extreme values in f32") {
  int swept = 0;
  for (const OpInfo* op : OpRegistry::instance().all()) {
    if (!op->domain) continue;
    const TensorFunction run = op->samples().front().run;
    check_sweep(op->name, *op->domain, [&](const Tensor& x) { return run({x})[0]; });
    ++swept;
  }
  CHECK(swept >= 30);
}

TEST_CASE("no activation is NaN, nor its slope, at extreme values in f32") {
  for (const std::string& name : activation_names()) {
    check_sweep(name, {-INFINITY, INFINITY}, activation(name));
  }
}

TEST_CASE("activations take their known values") {
  CHECK(at(gelu, 1) == doctest::Approx(0.8413447460685429).epsilon(1e-12));
  CHECK(at(gelu_tanh, 1) == doctest::Approx(0.8411919906082768).epsilon(1e-12));
  CHECK(at(quick_gelu, 1) == doctest::Approx(0.8457957659328212).epsilon(1e-12));
  CHECK(at(silu, 2) == doctest::Approx(1.7615941559557649).epsilon(1e-12));
  CHECK(at(mish, 1) == doctest::Approx(0.8650983882673103).epsilon(1e-12));
  CHECK(at(selu, -1) == doctest::Approx(-1.1113307378125625).epsilon(1e-12));
  CHECK(at(hardswish, -4) == 0);
  CHECK(at(hardswish, 4) == 4);
  CHECK(at(relu_squared, 3) == 9);
  CHECK(at(softsign, -3) == -0.75);
  CHECK(softcap(scalar(1e6), 30).item() == 30);
}

TEST_CASE("a gated unit is its activation of the gate times up") {
  const Tensor gate = samples::normal({3, 5});
  const Tensor up = samples::normal({3, 5}, 1);
  auto same = [](const Tensor& a, const Tensor& b) {
    const auto x = a.to_vector<double>();
    const auto y = b.to_vector<double>();
    for (size_t i = 0; i < x.size(); ++i) CHECK(x[i] == doctest::Approx(y[i]).epsilon(1e-14));
  };
  same(swiglu(gate, up), silu(gate) * up);
  same(geglu(gate, up), gelu(gate) * up);
  same(reglu(gate, up), relu(gate) * up);
  same(glu_sigmoid(gate, up), sigmoid(gate) * up);
}

TEST_CASE("configs know activations by name and get the nearest names for an unknown one") {
  CHECK(activation("relu2")(scalar(-2)).item() == 0);
  CHECK(activation("identity")(scalar(-2)).item() == -2);
  for (const char* name : {"gelu", "gelu_tanh", "relu", "silu", "relu2", "tanh", "sigmoid"}) {
    CHECK_NOTHROW(activation(name));
  }
  CHECK_THROWS_WITH_AS(activation("gelo"), doctest::Contains("gelu"), Error);
}

TEST_CASE("relu passes no gradient at zero and NaN through") {
  Tensor x = tensor({0, -1, 2}, {3}).set_requires_grad();
  sum(relu(x)).backward();
  CHECK(x.grad().to_vector<float>() == std::vector<float>{0, 0, 1});
  CHECK(std::isnan(relu(scalar(NAN)).item()));
}

TEST_CASE("powers are exact where multiplication is, also of negative bases") {
  const Tensor x = tensor({-2, 3}, {2}, DType::f64);
  CHECK(pow(x, 2).to_vector<double>() == std::vector<double>{4, 9});
  CHECK(pow(x, 3).to_vector<double>()[0] == doctest::Approx(-8));
  CHECK(pow(x, 0).to_vector<double>() == std::vector<double>{1, 1});
  CHECK(std::isnan(pow(x, 0.3).to_vector<double>()[0]));
  CHECK(pow(from_values(std::vector<int64_t>{4}, {1}), 0.5).item() == 2);
}

TEST_CASE("functions that keep integers keep them exactly") {
  const int64_t big = (int64_t{1} << 53) + 1;
  const Tensor x = from_values(std::vector<int64_t>{-big, 7, 0}, {3});
  CHECK(abs(x).to_vector<int64_t>() == std::vector<int64_t>{big, 7, 0});
  CHECK(sign(x).to_vector<int64_t>() == std::vector<int64_t>{-1, 1, 0});
  CHECK(clamp(x, -INFINITY, 6.5).to_vector<int64_t>() == std::vector<int64_t>{-big, 6, 0});
  CHECK(maximum(x, from_values(std::vector<int64_t>{1}, {1})).to_vector<int64_t>() ==
        std::vector<int64_t>{1, 7, 1});
  const Tensor a = from_values(std::vector<int64_t>{-7, 7, -7, 7, 5}, {5});
  const Tensor b = from_values(std::vector<int64_t>{3, 3, -3, -3, 0}, {5});
  CHECK(remainder(a, b).to_vector<int64_t>() == std::vector<int64_t>{2, 1, -1, -2, 0});
}

TEST_CASE("minimum and maximum pass NaN on and give a tie's gradient to the first") {
  Tensor a = tensor({1, NAN, 1}, {3}).set_requires_grad();
  Tensor b = tensor({1, 1, NAN}, {3}).set_requires_grad();
  const auto least = minimum(a, b).to_vector<float>();
  CHECK(std::isnan(least[1]));
  CHECK(std::isnan(least[2]));
  sum(slice(maximum(a, b), 0, 0, 1)).backward();
  CHECK(a.grad().to_vector<float>()[0] == 1);
  CHECK(b.grad().to_vector<float>()[0] == 0);
}

TEST_CASE("isnan and isfinite tell numbers from the rest") {
  const Tensor x = tensor({0, NAN, INFINITY, -INFINITY, 3e38}, {5});
  CHECK(isnan(x).to_vector<uint8_t>() == std::vector<uint8_t>{0, 1, 0, 0, 0});
  CHECK(isfinite(x).to_vector<uint8_t>() == std::vector<uint8_t>{1, 0, 0, 0, 1});
}
