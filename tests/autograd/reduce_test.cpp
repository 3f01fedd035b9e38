#include "tessera/autograd/ops/reduce.h"

#include <doctest/doctest.h>

#include <cmath>

#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/registry.h"
#include "tessera/autograd/tape.h"
#include "tessera/core/create.h"
#include "tessera/core/parallel.h"

using namespace tessera;

namespace {

using Values = std::vector<double>;
constexpr double kInf = INFINITY;

Tensor leaf(std::initializer_list<double> values, const Shape& shape) {
  return tensor(values, shape, DType::f64).set_requires_grad();
}

Values gradient(const Tensor& y, const Tensor& x) {
  return grad({sum(y)}, {x})[0].to_vector<double>();
}

}  // namespace

TEST_CASE("mean and var agree with hand computation, also of integers and halves") {
  const Tensor x = tensor({1, 2, 3, 6}, {2, 2});
  CHECK(mean(x).item() == 3);
  CHECK(mean(x, {1}).to_vector<double>() == Values{1.5, 4.5});
  CHECK(var(x).item() == 3.5);
  CHECK(var(x, {}, 1).item() == doctest::Approx(14.0 / 3));
  CHECK(stddev(x, {1}).to_vector<double>() == Values{0.5, 1.5});
  CHECK(mean(from_values(std::vector<int64_t>{1, 2}, {2})).item() == 1.5);
  CHECK(mean(x.to(DType::bf16)).dtype() == DType::bf16);
  CHECK(var(x.to(DType::bf16)).item() == 3.5);
  CHECK(std::isnan(mean(zeros({0})).item()));
  CHECK(std::isnan(var(ones({1}), {}, 1).item()));
}

TEST_CASE("var of numbers far from zero keeps its digits") {
  const Tensor x = tensor({10000, 10001, 10002}, {3});
  CHECK(var(x).item() == doctest::Approx(2.0 / 3).epsilon(1e-6));
}

TEST_CASE("stddev of equal entries has zero gradient") {
  const Tensor x = leaf({2, 2, 2}, {3});
  CHECK(gradient(stddev(x), x) == Values{0, 0, 0});
}

TEST_CASE("max and min give the first of equal entries and let NaN win") {
  const Tensor x = leaf({1, 3, 3, -2, -2, 0}, {2, 3});
  const auto [high, high_at] = max(x, 1);
  CHECK(high.to_vector<double>() == Values{3, 0});
  CHECK(high_at.to_vector<int64_t>() == std::vector<int64_t>{1, 2});
  const auto [low, low_at] = min(x, -1, true);
  CHECK(low.shape() == Shape{2, 1});
  CHECK(low_at.to_vector<int64_t>() == std::vector<int64_t>{0, 0});
  CHECK(gradient(high, x) == Values{0, 1, 0, 0, 0, 1});
  CHECK(argmax(x, 0).to_vector<int64_t>() == std::vector<int64_t>{0, 0, 0});

  const Tensor y = tensor({1, NAN, 5, NAN}, {4});
  CHECK(std::isnan(max(y, 0).values.item()));
  CHECK(argmax(y, 0).item() == 1);
  CHECK(argmin(y, 0).item() == 1);
}

TEST_CASE("max takes integers, halves and infinities") {
  const int64_t big = (int64_t{1} << 53) + 1;
  const Tensor pair = from_values(std::vector<int64_t>{big - 1, big}, {2});
  CHECK(max(pair, 0).values.to_vector<int64_t>() == std::vector<int64_t>{big});
  CHECK(max(tensor({1, 2}, {2}, DType::bf16), 0).values.dtype() == DType::bf16);
  CHECK(argmax(tensor({-kInf, -kInf}, {2}), 0).item() == 0);
  CHECK_THROWS_WITH_AS(max(zeros({3, 0}), 1), doctest::Contains("max"), Error);
}

TEST_CASE("amax over several dimensions sends the gradient to the first of equals") {
  const Tensor x = leaf({1, 4, 4, 0}, {2, 2});
  CHECK(amax(x).item() == 4);
  CHECK(gradient(amax(x), x) == Values{0, 1, 0, 0});
  CHECK(gradient(amin(x, {0}, true), x) == Values{1, 0, 0, 1});
}

TEST_CASE("prod has exact gradients with one zero and with two") {
  const Tensor one = leaf({2, 0, 5}, {3});
  CHECK(gradient(prod(one), one) == Values{0, 10, 0});
  const Tensor two = leaf({0, 0, 5}, {3});
  CHECK(gradient(prod(two), two) == Values{0, 0, 0});
  CHECK(prod(zeros({2, 0}), {1}).to_vector<double>() == Values{1, 1});
  CHECK(prod(from_values(std::vector<int64_t>{3, 5, 7, 11, 13}, {5})).item<int64_t>() == 15015);
}

TEST_CASE("logsumexp neither overflows nor turns infinities into NaN") {
  CHECK(logsumexp(tensor({1000, 1000}, {2})).item() == doctest::Approx(1000.693147).epsilon(1e-6));
  const Tensor x = leaf({-kInf, -kInf, 0, -kInf, kInf, 1}, {3, 2});
  for (bool again : {false, true}) {
    const Tensor y = logsumexp(x, {1});
    CHECK(y.to_vector<double>() == Values{-kInf, 0, kInf});
    const Tensor g = grad({y}, {x}, {ones_like(y)}, {.create_graph = again})[0];
    CHECK(g.to_vector<double>() == Values{0, 0, 1, 0, 0, 0});
  }
  CHECK(logsumexp(zeros({2, 0}), {1}).to_vector<double>() == Values{-kInf, -kInf});
  CHECK(std::isnan(logsumexp(tensor({1, NAN}, {2})).item()));
}

TEST_CASE("norms agree with hand computation and have zero gradient at zero") {
  const Tensor x = leaf({3, -4, 0, 0}, {2, 2});
  CHECK(norm(x, 1, {1}).to_vector<double>() == Values{7, 0});
  CHECK(norm(x, kInf, {1}).to_vector<double>() == Values{4, 0});
  for (bool again : {false, true}) {
    const Tensor y = norm(x, 2, {1});
    CHECK(y.to_vector<double>() == Values{5, 0});
    const Tensor g = grad({y}, {x}, {ones_like(y)}, {.create_graph = again})[0];
    const Values slope = g.to_vector<double>();
    CHECK(slope[0] == doctest::Approx(0.6));
    CHECK(slope[1] == doctest::Approx(-0.8));
    CHECK(slope[2] == 0);
  }
  CHECK(norm(full({4}, 1e30)).item() == doctest::Approx(2e30));
}

TEST_CASE("count_nonzero counts over dimensions") {
  CHECK(count_nonzero(tensor({0, 2, NAN, 0}, {2, 2}), {0}).to_vector<int64_t>() ==
        std::vector<int64_t>{1, 1});
}

TEST_CASE("reductions give the same bits for any number of threads") {
  const Tensor x = samples::normal({257, 300}).to(DType::f32).set_requires_grad();
  auto bits = [&](int threads) {
    set_num_threads(threads);
    const Tensor y = sum(logsumexp(x, {1}) + var(x, {1}) + norm(x, 2, {1}) + amax(x, {1})) +
                     sum(stddev(x, {0}) + mean(x, {0}));
    std::vector<float> all = grad({y}, {x})[0].to_vector<float>();
    all.push_back(y.item<float>());
    return all;
  };
  const int before = num_threads();
  const auto one = bits(1);
  const auto two = bits(2);
  set_num_threads(before);
  CHECK(one == two);
}
