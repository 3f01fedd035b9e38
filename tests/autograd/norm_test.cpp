#include "tessera/autograd/ops/norm.h"

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

// (x − μ) / √(σ² + ε) of one list of values.
std::vector<double> normalized(const std::vector<double>& x, double eps) {
  double mean = 0;
  double squares = 0;
  for (double v : x) mean += v / static_cast<double>(x.size());
  for (double v : x) squares += (v - mean) * (v - mean) / static_cast<double>(x.size());
  std::vector<double> y;
  for (double v : x) y.push_back((v - mean) / std::sqrt(squares + eps));
  return y;
}

void check_near(const std::vector<double>& a, const std::vector<double>& b, double tolerance) {
  REQUIRE(a.size() == b.size());
  for (size_t i = 0; i < a.size(); ++i) CHECK(a[i] == doctest::Approx(b[i]).epsilon(tolerance));
}

struct Results {
  std::vector<float> values;
  bool operator==(const Results&) const = default;
  void add(const Tensor& x) {
    for (float v : x.to_vector<float>()) values.push_back(v);
  }
};

Results run_all(int threads) {
  const int before = num_threads();
  set_num_threads(threads);
  Results results;
  const Tensor x = samples::normal({64, 24, 40}).to(DType::f32).set_requires_grad();
  const Tensor rows = samples::normal({40}, 1).to(DType::f32).set_requires_grad();
  const Tensor channels = samples::normal({24}, 2).to(DType::f32).set_requires_grad();
  const Tensor g = samples::normal({64, 24, 40}, 3).to(DType::f32);
  const TensorList outputs = {layer_norm(x, rows, rows), rms_norm(x, rows),
                              batch_norm(x, channels, channels).y,
                              group_norm(x, 4, channels, channels)};
  for (const Tensor& y : outputs) {
    results.add(y);
    for (const Tensor& leaf : {x, rows, channels}) leaf.set_grad({});
    y.backward(g);
    for (const Tensor& leaf : {x, rows, channels}) {
      if (leaf.grad().defined()) results.add(leaf.grad());
    }
  }
  set_num_threads(before);
  return results;
}

}  // namespace

TEST_CASE("layer norm of a row far from zero keeps its accuracy in f32") {
  std::vector<double> values;
  for (int i = 0; i < 1000; ++i) values.push_back(1000 + (i * 37 % 101) / 16.0);  // exact in f32
  const Tensor x = from_values(values, {1, 1000}).to(DType::f32);
  check_near(layer_norm(x).to_vector<double>(), normalized(values, 1e-5), 1e-3);
}

TEST_CASE("rms norm divides by the root of the mean square") {
  const Tensor x = tensor({3, 4}, {2}, DType::f64);
  check_near(rms_norm(x, {}, 0).to_vector<double>(), {3 / std::sqrt(12.5), 4 / std::sqrt(12.5)},
             1e-12);
}

TEST_CASE("batch norm returns the statistics of its batch without history") {
  const Tensor x = tensor({1, 10, 3, 20, 5, 60}, {3, 2}, DType::f64).set_requires_grad();
  const BatchNormResult result = batch_norm(x);
  CHECK(result.y.requires_grad());
  CHECK_FALSE(result.mean.requires_grad());
  check_near(result.mean.to_vector<double>(), {3, 30}, 1e-12);
  check_near(result.variance.to_vector<double>(), {8.0 / 3, 1400.0 / 3}, 1e-12);
  check_near(batch_norm(x, result.mean, result.variance, {}, {}, 1e-5).to_vector<double>(),
             result.y.to_vector<double>(), 1e-12);
}

TEST_CASE("instance norm normalises every channel of every sample alone") {
  const Tensor x = samples::normal({2, 3, 5});
  const std::vector<double> all = x.to_vector<double>();
  std::vector<double> expected;
  for (auto at = all.begin(); at != all.end(); at += 5) {
    for (double v : normalized({at, at + 5}, 1e-5)) expected.push_back(v);
  }
  check_near(instance_norm(x).to_vector<double>(), expected, 1e-9);
}

TEST_CASE("norms and their gradients are the same bits for any number of threads") {
  CHECK(run_all(1) == run_all(2));
}
