#include "tessera/autograd/ops/matmul.h"

#include <doctest/doctest.h>

#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/registry.h"
#include "tessera/autograd/tape.h"
#include "tessera/core/parallel.h"

using namespace tessera;

namespace {

// Results and gradients of f at f32 copies of the inputs, as plain numbers.
std::vector<std::vector<float>> outcome(const TensorFunction& f, const TensorList& inputs) {
  TensorList leaves;
  for (const Tensor& x : inputs) {
    Tensor leaf = is_floating(x.dtype()) ? x.to(DType::f32) : x;
    if (is_floating(x.dtype())) leaf.set_requires_grad();
    leaves.push_back(leaf);
  }
  std::vector<std::vector<float>> all;
  Tensor total;
  for (const Tensor& y : f(leaves)) {
    all.push_back(y.to_vector<float>());
    total = total.defined() ? total + sum(y * y) : sum(y * y);
  }
  total.backward();
  for (const Tensor& leaf : leaves) {
    if (leaf.requires_grad()) all.push_back(leaf.grad().to_vector<float>());
  }
  return all;
}

bool same_for_any_thread_count(const TensorFunction& f, const TensorList& inputs) {
  const int before = num_threads();
  set_num_threads(1);
  const auto one = outcome(f, inputs);
  set_num_threads(2);
  const auto two = outcome(f, inputs);
  set_num_threads(before);
  return one == two;
}

}  // namespace

TEST_CASE("matmul equals the triple loop for matrices, batches and vectors") {
  const Tensor a = samples::strided(samples::normal({2, 5, 7}));
  const Tensor b = samples::normal({7, 3}, 1);
  const Tensor c = matmul(a, b);
  REQUIRE(c.shape() == Shape{2, 5, 3});
  const auto x = a.to_vector<double>();
  const auto y = b.to_vector<double>();
  const auto z = c.to_vector<double>();
  for (size_t row = 0; row < 10; ++row) {
    for (size_t column = 0; column < 3; ++column) {
      double expected = 0;
      for (size_t k = 0; k < 7; ++k) expected += x[row * 7 + k] * y[k * 3 + column];
      CHECK(z[row * 3 + column] == doctest::Approx(expected).epsilon(1e-12));
    }
  }
  const Tensor v = samples::normal({7}, 2);
  CHECK(matmul(v, v).shape() == Shape{});
  CHECK(matmul(a, v).shape() == Shape{2, 5});
  CHECK(matmul(v, b).shape() == Shape{3});
  CHECK(matmul(v, v).item() == doctest::Approx(sum(v * v).item()));
  CHECK(matmul(samples::normal({5, 1, 2, 3}), samples::normal({4, 3, 6})).shape() ==
        Shape{5, 4, 2, 6});
}

TEST_CASE("a batch of matrices equals its products one by one") {
  const Tensor a = samples::normal({3, 1, 4, 5});
  const Tensor b = samples::normal({2, 5, 6}, 1);
  const Tensor c = matmul(a, b);
  for (int64_t i = 0; i < 3; ++i) {
    for (int64_t j = 0; j < 2; ++j) {
      const Tensor one = matmul(select(select(a, 0, i), 0, 0), select(b, 0, j));
      CHECK(one.to_vector<double>() == select(select(c, 0, i), 0, j).to_vector<double>());
    }
  }
}

TEST_CASE("matmul of different dtypes takes the promoted one, integers and halves are refused") {
  const Tensor a = samples::normal({2, 3}).to(DType::f32);
  CHECK(matmul(a, samples::normal({3, 2})).dtype() == DType::f64);
  CHECK_THROWS_WITH_AS(matmul(a, samples::normal({2, 2})),
                       doctest::Contains("matmul: inner sizes differ: (2, 3) x (2, 2)"), Error);
  CHECK_THROWS_WITH_AS(matmul(a.to(DType::f16), a.to(DType::f16)), doctest::Contains("matmul: "),
                       Error);
}

TEST_CASE("linear gives x Wᵀ + b and passes gradients on when the bias is absent") {
  const Tensor x = samples::normal({2, 3, 4});
  const Tensor w = samples::normal({5, 4}, 1);
  const Tensor b = samples::normal({5}, 2);
  const auto y = linear(x, w, b).to_vector<double>();
  const auto plain = (matmul(x, transpose(w, 0, 1)) + b).to_vector<double>();
  for (size_t i = 0; i < y.size(); ++i) CHECK(y[i] == doctest::Approx(plain[i]).epsilon(1e-12));
  Tensor leaf = w.detach();
  leaf.set_requires_grad();
  sum(linear(x, leaf)).backward();
  CHECK(leaf.grad().shape() == w.shape());
}

TEST_CASE("a gradient that came through a transpose is added to like any other") {
  for (int64_t batch : {0, 2}) {
    Tensor x = samples::normal({batch, 2, 3});
    x.set_requires_grad();
    const Tensor w = samples::normal({3, 4}, 1), u = samples::normal({2, 5}, 2);
    const Tensor h = x * 2.0;
    const Tensor first = matmul(h, w), second = matmul(transpose(h, 1, 2), u);
    const Tensor g = grad({sum(first), sum(second)}, {x})[0];
    const Tensor want = 2.0 * (reshape(sum(w, {1}), {1, 1, 3}) + reshape(sum(u, {1}), {1, 2, 1}));
    CHECK(g.shape() == x.shape());
    const auto a = g.to_vector<double>(), b = expand(want, x.shape()).to_vector<double>();
    for (size_t i = 0; i < a.size(); ++i) CHECK(a[i] == doctest::Approx(b[i]));
  }
}

TEST_CASE("matmul and linear give the same bits for any number of threads") {
  const TensorFunction product = [](const TensorList& x) { return TensorList{matmul(x[0], x[1])}; };
  const TensorFunction layer = [](const TensorList& x) {
    return TensorList{linear(x[0], x[1], x[2])};
  };
  CHECK(same_for_any_thread_count(product,
                                  {samples::normal({301, 300}), samples::normal({300, 77}, 1)}));
  CHECK(same_for_any_thread_count(
      product, {samples::normal({3, 65, 40}), samples::normal({3, 40, 130}, 1)}));
  CHECK(same_for_any_thread_count(
      layer,
      {samples::normal({515, 300}), samples::normal({70, 300}, 1), samples::normal({70}, 2)}));
}
