#include "tessera/autograd/ops/sort.h"

#include <doctest/doctest.h>

#include <cmath>
#include <numeric>

#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/registry.h"
#include "tessera/core/create.h"
#include "tessera/core/parallel.h"
#include "tessera/core/random.h"

using namespace tessera;

namespace {

using Values = std::vector<double>;
using Ids = std::vector<int64_t>;

Tensor ids(const Ids& values) {
  return from_values(values, {static_cast<int64_t>(values.size())});
}

// The order by definition: a stable sort of the indices.
Ids brute_order(const Values& x, bool descending) {
  Ids order(x.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    const double p = x[static_cast<size_t>(a)];
    const double q = x[static_cast<size_t>(b)];
    return descending ? p > q : p < q;
  });
  return order;
}

}  // namespace

TEST_CASE("topk gives the greatest in order, ties by the lowest index, NaN first") {
  const Tensor x = tensor({2, 5, 5, 1, 5}, {5});
  const auto [values, indices] = topk(x, 4);
  CHECK(values.to_vector<double>() == Values{5, 5, 5, 2});
  CHECK(indices.to_vector<int64_t>() == Ids{1, 2, 4, 0});
  CHECK(topk(x, 2, 0, false).indices.to_vector<int64_t>() == Ids{3, 0});
  CHECK(topk(tensor({1, NAN, 3}, {3}), 2).indices.to_vector<int64_t>() == Ids{1, 2});
  CHECK(topk(x, 0).values.shape() == Shape{0});
}

TEST_CASE("topk of any k is the head of the sorted order") {
  Generator random(3);
  for (int64_t n : {1, 7, 64, 300}) {
    Values x(static_cast<size_t>(n));
    for (double& value : x) value = static_cast<double>(random.below(n / 2 + 1));  // many ties
    const Tensor t = from_values(x, {n});
    for (bool largest : {false, true}) {
      const Ids order = brute_order(x, largest);
      CHECK(sort(t, 0, largest).indices.to_vector<int64_t>() == order);
      for (int64_t k : {int64_t{1}, (n + 1) / 2, n}) {
        CHECK(topk(t, k, 0, largest).indices.to_vector<int64_t>() ==
              Ids(order.begin(), order.begin() + k));
      }
    }
  }
}

TEST_CASE("sort works along any dimension and on any dtype") {
  const Tensor x = tensor({3, 1, 2, 0}, {2, 2});
  CHECK(sort(x, 0).values.to_vector<double>() == Values{2, 0, 3, 1});
  CHECK(sort(x, 1).values.to_vector<double>() == Values{1, 3, 0, 2});
  CHECK(sort(x.to(DType::bf16), 1).values.to_vector<double>() == Values{1, 3, 0, 2});
  CHECK(sort(x.to(DType::u8), 1).values.dtype() == DType::u8);
  CHECK(argsort(x, 1, true).to_vector<int64_t>() == Ids{0, 1, 0, 1});
  CHECK(argsort(tensor({NAN, 1, -INFINITY, INFINITY}, {4})).to_vector<int64_t>() ==
        Ids{2, 1, 3, 0});
}

TEST_CASE("the gradient of sorted values goes back to where they came from") {
  const Tensor x = tensor({3, 1, 2}, {3}).set_requires_grad();
  sum(topk(x, 2).values * tensor({10, 100}, {2})).backward();
  CHECK(x.grad().to_vector<double>() == Values{10, 0, 100});
}

TEST_CASE("kth_value counts from the least") {
  const Tensor x = tensor({5, 1, 4, 4, 9, 0}, {2, 3});
  const auto [values, indices] = kth_value(x, 2, 1);
  CHECK(values.to_vector<double>() == Values{4, 4});
  CHECK(indices.to_vector<int64_t>() == Ids{2, 0});
  CHECK(kth_value(x, 1, 0, true).values.shape() == Shape{1, 3});
}

TEST_CASE("one_hot marks classes and refuses others with their place") {
  CHECK(one_hot(ids({1, 0}), 3).to_vector<double>() == Values{0, 1, 0, 1, 0, 0});
  CHECK(one_hot(ids({1}), 2, DType::boolean).dtype() == DType::boolean);
  CHECK_THROWS_WITH_AS(one_hot(ids({0, 3}), 3), doctest::Contains("3 at [1]"), Error);
}

TEST_CASE("bincount counts and pads to the least length") {
  CHECK(bincount(ids({2, 0, 2})).to_vector<int64_t>() == Ids{1, 0, 2});
  CHECK(bincount(ids({1}), 4).to_vector<int64_t>() == Ids{0, 1, 0, 0});
  CHECK(bincount(ids({})).shape() == Shape{0});
}

TEST_CASE("unique values, their counts and the way back") {
  const Tensor x = from_values(Ids{7, -1, 7, 3}, {2, 2});
  const Unique u = unique(x);
  CHECK(u.values.to_vector<int64_t>() == Ids{-1, 3, 7});
  CHECK(u.counts.to_vector<int64_t>() == Ids{1, 1, 2});
  CHECK(u.inverse.shape() == Shape{2, 2});
  CHECK(u.inverse.to_vector<int64_t>() == Ids{2, 0, 2, 1});
  CHECK(unique(x.to(DType::i32)).values.dtype() == DType::i32);
}

TEST_CASE("sorting gives the same indices for any number of threads") {
  const Tensor x = samples::normal({300, 100});
  const int before = num_threads();
  set_num_threads(1);
  const auto one = argsort(x, 0).to_vector<int64_t>();
  set_num_threads(2);
  const auto two = argsort(x, 0).to_vector<int64_t>();
  set_num_threads(before);
  CHECK(one == two);
}
