#include "tessera/autograd/ops/softmax.h"

#include <doctest/doctest.h>

#include <cmath>

#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/registry.h"
#include "tessera/autograd/tape.h"
#include "tessera/core/create.h"
#include "tessera/core/parallel.h"

using namespace tessera;

namespace {
constexpr double kInf = std::numeric_limits<double>::infinity();
}

TEST_CASE("softmax rows add up to one along any dimension and do not overflow") {
  const Tensor x = samples::normal({3, 4, 5}) * 1000;
  for (int64_t dim = 0; dim < 3; ++dim) {
    for (double total : sum(softmax(x.to(DType::f32), dim), {dim}).to_vector<double>()) {
      CHECK(total == doctest::Approx(1).epsilon(1e-5));
    }
  }
}

TEST_CASE("softmax and log_softmax equal the formula") {
  const Tensor x = tensor({1, 2, 3, -1}, {4}, DType::f64);
  const double total = std::exp(1) + std::exp(2) + std::exp(3) + std::exp(-1);
  const auto p = softmax(x, 0).to_vector<double>();
  const auto log_p = log_softmax(x, 0).to_vector<double>();
  const std::vector<double> values = {1, 2, 3, -1};
  for (size_t i = 0; i < 4; ++i) {
    CHECK(p[i] == doctest::Approx(std::exp(values[i]) / total).epsilon(1e-12));
    CHECK(log_p[i] == doctest::Approx(values[i] - std::log(total)).epsilon(1e-12));
  }
}

TEST_CASE("entries of −∞ get probability zero and rows of −∞ have no gradient and no NaN") {
  const Tensor x = tensor({0, -kInf, 0, -kInf, -kInf, -kInf}, {2, 3}, DType::f64);
  CHECK(softmax(x, 1).to_vector<double>() == std::vector<double>{0.5, 0, 0.5, 0, 0, 0});
  const auto log_p = log_softmax(x, 1).to_vector<double>();
  CHECK(log_p[0] == doctest::Approx(-std::log(2.0)));
  for (size_t i : {1u, 3u, 4u, 5u}) CHECK(log_p[i] == -kInf);

  const Tensor weights = tensor({1, 2, 3, 4, 5, 6}, {2, 3}, DType::f64);
  for (const bool create_graph : {false, true}) {
    Tensor leaf = x.detach();
    leaf.set_requires_grad();
    const TensorList outputs = {softmax(leaf, 1), log_softmax(leaf, 1)};
    for (const Tensor& y : outputs) {
      const auto g = grad({y}, {leaf}, {weights}, {.create_graph = create_graph})[0];
      const auto values = g.to_vector<double>();
      for (double v : values) CHECK(std::isfinite(v));
      for (size_t i = 3; i < 6; ++i) CHECK(values[i] == 0);
    }
  }
}

TEST_CASE("softmax of a row with NaN is NaN throughout") {
  const Tensor x = tensor({0, NAN, -kInf}, {3}, DType::f64);
  for (double v : softmax(x, 0).to_vector<double>()) CHECK(std::isnan(v));
}

TEST_CASE("softmax gives the same bits for any number of threads") {
  const Tensor x = samples::normal({70, 700}).to(DType::f32);
  const int before = num_threads();
  set_num_threads(1);
  const auto one = softmax(x, 1).to_vector<float>();
  const auto one_column = log_softmax(x, 0).to_vector<float>();
  set_num_threads(2);
  CHECK(softmax(x, 1).to_vector<float>() == one);
  CHECK(log_softmax(x, 0).to_vector<float>() == one_column);
  set_num_threads(before);
}
