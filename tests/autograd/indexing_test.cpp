#include "tessera/autograd/ops/indexing.h"

#include <doctest/doctest.h>

#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/embedding.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/registry.h"
#include "tessera/autograd/tape.h"
#include "tessera/core/create.h"
#include "tessera/core/parallel.h"

using namespace tessera;

namespace {

Tensor ids(std::vector<int64_t> values) {
  return from_values(values, {static_cast<int64_t>(values.size())});
}

}  // namespace

TEST_CASE("embedding takes rows, and its gradient adds the rows of equal ids") {
  Tensor table = tensor({1, 2, 3, 4, 5, 6}, {3, 2}, DType::f64);
  table.set_requires_grad();
  const Tensor y = embedding(table, from_values(std::vector<int64_t>{2, 0, 2, 2}, {2, 2}));
  CHECK(y.shape() == Shape{2, 2, 2});
  CHECK(y.to_vector<double>() == std::vector<double>{5, 6, 1, 2, 5, 6, 5, 6});
  sum(y * tensor({1, 2, 3, 4, 5, 6, 7, 8}, {2, 2, 2}, DType::f64)).backward();
  CHECK(table.grad().to_vector<double>() == std::vector<double>{3, 4, 0, 0, 13, 16});
}

TEST_CASE("an id out of range is named with its value and its position") {
  const Tensor bad = from_values(std::vector<int64_t>{0, 1, 2, -4}, {2, 2});
  CHECK_THROWS_WITH_AS(embedding(samples::normal({3, 2}), bad),
                       doctest::Contains("embedding: id -4 at [1, 1] is not in [0, 3)"), Error);
  CHECK_THROWS_WITH_AS(gather(samples::normal({2, 3}), 1, bad),
                       doctest::Contains("gather: index -4 at [1, 1]"), Error);
}

TEST_CASE("embedding gradients have the same bits for any number of threads") {
  const Tensor table = samples::normal({50, 33}).to(DType::f32);
  const Tensor which = samples::integers({2000}, 0, 50);
  const Tensor weights = samples::normal({2000, 33}, 1).to(DType::f32);
  const auto run = [&] {
    Tensor leaf = table.detach();
    leaf.set_requires_grad();
    sum(embedding(leaf, which) * weights).backward();
    return leaf.grad().to_vector<float>();
  };
  const int before = num_threads();
  set_num_threads(1);
  const auto one = run();
  set_num_threads(2);
  CHECK(run() == one);
  set_num_threads(before);
}

TEST_CASE("gather and scatter are each other's opposite along a dimension") {
  const Tensor x = tensor({1, 2, 3, 4, 5, 6}, {2, 3}, DType::f64);
  const Tensor index = from_values(std::vector<int64_t>{2, 0, 1, 1}, {2, 2});
  const Tensor picked = gather(x, 1, index);
  CHECK(picked.to_vector<double>() == std::vector<double>{3, 1, 5, 5});
  CHECK(scatter_add(zeros({2, 3}, {DType::f64, {}}), 1, index, picked).to_vector<double>() ==
        std::vector<double>{1, 0, 3, 0, 10, 0});
  CHECK(scatter(zeros({2, 3}), 1, index, tensor({1, 2, 3, 4}, {2, 2})).to_vector<double>() ==
        std::vector<double>{2, 0, 1, 0, 4, 0});
  CHECK(gather(x, 0, from_values(std::vector<int64_t>{1, 0, 1}, {1, 3})).to_vector<double>() ==
        std::vector<double>{4, 2, 6});
}

TEST_CASE("of equal scatter indices only the last receives a gradient") {
  Tensor src = tensor({1, 2, 3}, {3}, DType::f64);
  src.set_requires_grad();
  const Tensor y = scatter(zeros({2}, {DType::f64, {}}), 0, ids({1, 1, 0}), src);
  CHECK(y.to_vector<double>() == std::vector<double>{3, 2});
  sum(y).backward();
  CHECK(src.grad().to_vector<double>() == std::vector<double>{0, 1, 1});
}

TEST_CASE("indices work on integer tensors and along strided views") {
  const Tensor x = from_values(std::vector<int64_t>{10, 11, 12, 13}, {4});
  CHECK(index_select(x, 0, ids({3, 1})).to_vector<int64_t>() == std::vector<int64_t>{13, 11});
  CHECK(index_add(x, 0, ids({0, 0}), ids({1, 2})).to_vector<int64_t>() ==
        std::vector<int64_t>{13, 11, 12, 13});
  const Tensor s = samples::strided(samples::normal({3, 4}));
  CHECK(index_select(s, 1, ids({2, 2})).shape() == Shape{3, 2});
}

TEST_CASE("a tensor splits into more pieces than a shape has dimensions") {
  const Tensor x = arange(0, 20);
  const TensorList parts = chunk(x, 20, 0);
  CHECK(parts.size() == 20);
  CHECK(parts[13].to_vector<float>() == std::vector<float>{13});
  CHECK_THROWS_WITH_AS(split(x, std::vector<int64_t>(14, 1), 0),
                       doctest::Contains("do not add up to dimension 0"), Error);
}
