#include "tessera/core/tensor.h"

#include <doctest/doctest.h>

#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/kernels/fill.h"
#include "tessera/core/view.h"

using namespace tessera;

TEST_CASE("copies of a tensor and its views share storage and its version") {
  const Tensor x = zeros({2, 3});
  const Tensor same = x;
  const Tensor row = views::select(x, 0, 1);
  kernels::fill(row, 4);
  CHECK(x.to_vector<float>() == std::vector<float>{0, 0, 0, 4, 4, 4});
  CHECK(same.is_same(x));
  CHECK_FALSE(row.is_same(x));
  const uint32_t before = x.version();
  row.bump_version();
  CHECK(x.version() == before + 1);
  const Tensor copy = kernels::clone(x);
  kernels::fill(copy, 9);
  CHECK(x.to_vector<float>() == std::vector<float>{0, 0, 0, 4, 4, 4});
}

TEST_CASE("a view keeps the storage alive") {
  Tensor view;
  {
    const Tensor x = arange(0, 10);
    view = views::slice(x, 0, 3, 6);
  }
  CHECK(view.to_vector<int64_t>() == std::vector<int64_t>{3, 4, 5});
}

TEST_CASE("borrowed storage keeps its owner alive and frees nothing itself") {
  auto owner = std::make_shared<std::vector<float>>(4, 2.0f);
  std::weak_ptr<std::vector<float>> watch = owner;
  {
    auto storage = std::make_shared<Storage>(owner->data(), 16, owner);
    const Tensor x(storage, {2, 2}, {2, 1}, 0, DType::f32);
    owner.reset();
    CHECK_FALSE(watch.expired());
    CHECK(x.to_vector<float>() == std::vector<float>(4, 2));
  }
  CHECK(watch.expired());
}

TEST_CASE("contiguity ignores dimensions of size 1 and tensors of size 0") {
  const Tensor x = zeros({3, 4});
  CHECK(x.is_contiguous());
  CHECK_FALSE(views::transpose(x, 0, 1).is_contiguous());
  CHECK(views::slice(x, 0, 1, 2).is_contiguous());
  CHECK_FALSE(views::slice(x, 1, 1, 3).is_contiguous());
  CHECK(views::transpose(views::slice(x, 0, 1, 2), 0, 1).is_contiguous());
  CHECK(views::transpose(zeros({0, 4}), 0, 1).is_contiguous());
  CHECK_FALSE(views::expand(zeros({1}), {2}).is_contiguous());
  CHECK(scalar(1).is_contiguous());
}

TEST_CASE("misuse of a tensor is an error") {
  const Tensor undefined;
  CHECK_FALSE(undefined.defined());
  CHECK_THROWS_WITH_AS(undefined.shape(), doctest::Contains("before it was given a value"), Error);
  const Tensor x = zeros({2, 3});
  CHECK_THROWS_WITH_AS(x.data<double>(), "data: tensor is f32, asked for f64", Error);
  CHECK_THROWS_WITH_AS(x.item(), "item: wants one element, got shape (2, 3)", Error);
  CHECK_THROWS_WITH_AS(x.size(2), doctest::Contains("size: dimension 2"), Error);
  CHECK(x.size(-1) == 3);
  CHECK(x.stride(0) == 3);
}
