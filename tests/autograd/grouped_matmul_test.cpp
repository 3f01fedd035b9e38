#include "tessera/autograd/ops/grouped_matmul.h"

#include <doctest/doctest.h>

#include "tessera/autograd/gradcheck.h"
#include "tessera/autograd/ops/matmul.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/core/create.h"
#include "tessera/core/parallel.h"
#include "tessera/core/random.h"
#include "tessera/tests/support.h"

using namespace tessera;

namespace {

Tensor offsets(const std::vector<int64_t>& at) {
  return from_values(at, {static_cast<int64_t>(at.size())});
}

}  // namespace

TEST_CASE("rows are multiplied with the matrix of their group") {
  RandomScope scope(1);
  const Tensor x = randn({6, 5}), w = randn({3, 5, 4});
  const Tensor y = grouped_matmul(x, w, offsets({0, 4, 4, 6}));
  CHECK(test::worst(slice(y, 0, 0, 4), matmul(slice(x, 0, 0, 4), select(w, 0, 0))) < 1e-6);
  CHECK(test::worst(slice(y, 0, 4, 6), matmul(slice(x, 0, 4, 6), select(w, 0, 2))) < 1e-6);
}

TEST_CASE("matrices without rows receive no gradient, and rows of no group give nothing") {
  RandomScope scope(2);
  Tensor x = randn({6, 5}), w = randn({3, 5, 4});
  x.set_requires_grad();
  w.set_requires_grad();
  const Tensor y = grouped_matmul(x, w, offsets({0, 2, 2, 3}));
  CHECK(test::worst(slice(y, 0, 3), zeros({3, 4})) == 0);
  y.backward(ones({6, 4}));
  CHECK(test::worst(select(w.grad(), 0, 1), zeros({5, 4})) == 0);
  CHECK(test::worst(slice(x.grad(), 0, 3), zeros({3, 5})) == 0);
  CHECK(test::worst(slice(x.grad(), 0, 0, 2), zeros({2, 5})) > 0.1);
}

TEST_CASE("products by groups do not depend on the number of threads") {
  RandomScope scope(3);
  Tensor x = randn({300, 64}), w = randn({4, 64, 96}), b = randn({4, 96});
  for (Tensor* t : {&x, &w, &b}) t->set_requires_grad();
  const int before = num_threads();
  std::vector<std::vector<float>> seen[2];
  for (int threads : {1, 2}) {
    set_num_threads(threads);
    for (Tensor* t : {&x, &w, &b}) t->set_grad({});
    const Tensor y = grouped_matmul(x, w, offsets({0, 100, 101, 290, 300}), b);
    y.backward(y.detach());
    auto& list = seen[threads - 1];
    for (const Tensor& t : {y, x.grad(), w.grad(), b.grad()}) list.push_back(t.to_vector<float>());
  }
  set_num_threads(before);
  CHECK(seen[0] == seen[1]);
}

TEST_CASE("only the rows of groups are counted") {
  RandomScope scope(4);
  const int64_t before = grouped_matmul_rows();
  grouped_matmul(randn({9, 2}), randn({3, 2, 2}), offsets({0, 2, 2, 5}));
  CHECK(grouped_matmul_rows() - before == 5);
}

TEST_CASE("group offsets count the ids below each group") {
  const Tensor ids = from_values(std::vector<int64_t>{2, 0, 2, 4, 0, 3}, {6});
  CHECK(group_offsets(ids, 4).to_vector<int64_t>() == std::vector<int64_t>{0, 2, 2, 4, 5});
  CHECK(group_offsets(zeros({0}, {DType::i64, {}}), 2).to_vector<int64_t>() ==
        std::vector<int64_t>{0, 0, 0});
  CHECK_THROWS_WITH_AS(group_offsets(ones({2}), 2), doctest::Contains("group_offsets"), Error);
}

TEST_CASE("grouped_matmul has the gradients of its definition") {
  const GradcheckResult r = check_op(*OpRegistry::instance().find("grouped_matmul"));
  CHECK_MESSAGE(r.ok, r.message);
}
