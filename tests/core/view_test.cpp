#include "tessera/core/view.h"

#include <doctest/doctest.h>

#include "tessera/core/create.h"
#include "tessera/core/random.h"

using namespace tessera;

namespace {

// Element offsets in row-major order, by counting through every index.
std::vector<int64_t> offsets_of(const Shape& shape, const Strides& strides, int64_t offset) {
  std::vector<int64_t> result;
  Shape index = Shape::filled(shape.rank(), 0);
  for (int64_t n = shape.numel(); n > 0; --n) {
    int64_t at = offset;
    for (int64_t d = 0; d < shape.rank(); ++d) at += index[d] * strides[d];
    result.push_back(at);
    for (int64_t d = shape.rank() - 1; d >= 0 && ++index[d] == shape[d]; --d) index[d] = 0;
  }
  return result;
}

std::vector<int64_t> offsets_of(const Tensor& x) {
  return offsets_of(x.shape(), x.strides(), x.offset());
}

// Strides that reproduce `offsets` in `shape`, found by trying the only candidate.
std::optional<Strides> strides_by_search(const std::vector<int64_t>& offsets, const Shape& shape) {
  const Strides dense = contiguous_strides(shape);
  Strides strides = dense;
  for (int64_t d = 0; d < shape.rank(); ++d) {
    if (shape[d] > 1) strides[d] = offsets[static_cast<size_t>(dense[d])] - offsets[0];
  }
  if (offsets_of(shape, strides, offsets[0]) != offsets) return std::nullopt;
  return strides;
}

Shape random_shape(Generator& random) {
  Shape shape;
  for (int64_t rank = random.below(5); rank > 0; --rank) {
    constexpr int64_t kSizes[] = {1, 2, 2, 3, 4, 6};
    shape.push_back(kSizes[random.below(6)]);
  }
  return shape;
}

// A random factorisation of numel.
Shape random_split(int64_t numel, Generator& random) {
  Shape shape;
  while (numel > 1 && shape.rank() < 6) {
    int64_t factor = 1 + random.below(numel);
    while (numel % factor != 0) --factor;
    shape.push_back(factor);
    numel /= factor;
  }
  if (numel > 1) shape.push_back(numel);
  return shape;
}

Tensor random_view(Tensor x, Generator& random) {
  for (int64_t steps = random.below(4); steps > 0 && x.rank() > 0; --steps) {
    const int64_t dim = random.below(x.rank());
    switch (random.below(4)) {
      case 0:
        x = views::transpose(x, dim, random.below(x.rank()));
        break;
      case 1:
        x = views::slice(x, dim, 0, x.shape()[dim], 1 + random.below(2));
        break;
      case 2:
        x = views::slice(x, dim, x.shape()[dim] - 1, -1, -1);
        break;
      default: {
        Shape shape = x.shape();
        if (shape[dim] == 1) shape[dim] = 3;
        x = views::expand(x, shape);
      }
    }
  }
  return x;
}

Tensor counting(const Shape& shape) {
  return views::reshape(arange(0, static_cast<double>(shape.numel())), shape);
}

}  // namespace

TEST_CASE("reshape is a view exactly when strides for it exist, and keeps the order always") {
  Generator random(11);
  int as_view = 0, as_copy = 0;
  for (int i = 0; i < 4000; ++i) {
    const Tensor x = random_view(counting(random_shape(random)), random);
    const Shape shape = random_split(x.numel(), random);
    CAPTURE(x.shape());
    CAPTURE(x.strides());
    CAPTURE(shape);
    const auto offsets = offsets_of(x);
    const bool possible = strides_by_search(offsets, shape).has_value();
    const auto strides = views::reshape_strides(x, shape);
    REQUIRE(strides.has_value() == possible);
    if (strides) REQUIRE(offsets_of(shape, *strides, x.offset()) == offsets);
    const Tensor y = views::reshape(x, shape);
    REQUIRE(y.to_vector<int64_t>() == offsets);  // the values of counting() are their offsets
    REQUIRE((y.storage() == x.storage()) == possible);
    ++(possible ? as_view : as_copy);
  }
  CHECK(as_view > 500);
  CHECK(as_copy > 500);
}

TEST_CASE("reshape resolves one -1 and refuses what does not fit") {
  const Tensor x = counting({2, 6});
  CHECK(views::reshape(x, {3, -1}).shape() == Shape{3, 4});
  CHECK(views::reshape(x, {-1}).shape() == Shape{12});
  CHECK(views::reshape(zeros({0, 3}), {-1, 3}).shape() == Shape{0, 3});
  CHECK(views::reshape(zeros({0, 3}), {5, 0}).shape() == Shape{5, 0});
  CHECK(views::reshape(scalar(1), {1, 1}).shape() == Shape{1, 1});
  for (const Shape& wrong : {Shape{5}, Shape{-1, 5}, Shape{-1, -1}, Shape{-2, -6}, Shape{0, -1},
                             Shape{int64_t{1} << 62, 4, 12}}) {
    CHECK_THROWS_WITH_AS(views::reshape(x, wrong), doctest::Contains("reshape: "), Error);
  }
  CHECK_THROWS_WITH_AS(views::reshape(zeros({0}), {-1, 0}), doctest::Contains("do not fill"),
                       Error);
}

TEST_CASE("slice picks what a loop over positions picks") {
  Generator random(5);
  for (int i = 0; i < 3000; ++i) {
    const int64_t size = random.below(7);
    const int64_t start = random.below(21) - 10, stop = random.below(21) - 10;
    const int64_t step = (1 + random.below(4)) * (random.below(2) == 0 ? 1 : -1);
    std::vector<int64_t> wanted;
    if (step > 0) {
      const int64_t first = std::max<int64_t>(0, start < 0 ? start + size : start);
      const int64_t last = std::min(size, stop < 0 ? stop + size : stop);
      for (int64_t j = first; j < last; j += step) wanted.push_back(j);
    } else {
      for (int64_t j = std::min(start, size - 1); j > std::max<int64_t>(stop, -1); j += step) {
        wanted.push_back(j);
      }
    }
    CAPTURE(size);
    CAPTURE(start);
    CAPTURE(stop);
    CAPTURE(step);
    const Tensor x = arange(0, static_cast<double>(size));
    REQUIRE(views::slice(x, 0, start, stop, step).to_vector<int64_t>() == wanted);
  }
}

TEST_CASE("slice takes the largest steps and positions, and refuses step 0") {
  const Tensor x = arange(0, 5);
  CHECK(views::slice(x, 0, 1, INT64_MAX, INT64_MAX).to_vector<int64_t>() ==
        std::vector<int64_t>{1});
  CHECK(views::slice(x, 0, INT64_MAX, INT64_MIN, INT64_MIN).to_vector<int64_t>() ==
        std::vector<int64_t>{4});
  CHECK_THROWS_WITH_AS(views::slice(x, 0, 0, 1, 0), doctest::Contains("slice: step"), Error);
  CHECK_THROWS_WITH_AS(views::slice(x, 1, 0, 1), doctest::Contains("slice: dimension 1"), Error);
}

TEST_CASE("dimensions are selected, swapped, added and removed without copying") {
  const Tensor x = counting({2, 3, 4});
  CHECK(views::select(x, 1, -1).to_vector<int64_t>() ==
        std::vector<int64_t>{8, 9, 10, 11, 20, 21, 22, 23});
  CHECK(views::permute(x, {2, 0, 1}).shape() == Shape{4, 2, 3});
  CHECK(
      views::select(views::select(views::permute(x, {2, 0, 1}), 0, 3), 0, 1).to_vector<int64_t>() ==
      std::vector<int64_t>{15, 19, 23});
  CHECK(views::unsqueeze(x, -1).shape() == Shape{2, 3, 4, 1});
  CHECK(views::unsqueeze(x, 0).is_contiguous());
  CHECK(views::squeeze(views::unsqueeze(x, 1), 1).shape() == x.shape());
  CHECK(views::transpose(x, 0, 2).storage() == x.storage());
  CHECK_THROWS_WITH_AS(views::select(x, 0, 2), doctest::Contains("select: index 2"), Error);
  CHECK_THROWS_WITH_AS(views::squeeze(x, 0), doctest::Contains("squeeze: dimension 0"), Error);
  CHECK_THROWS_WITH_AS(views::permute(x, {0, 1}), doctest::Contains("permute: order"), Error);
  CHECK_THROWS_WITH_AS(views::permute(x, {0, 1, 1}), doctest::Contains("permute: "), Error);
}

TEST_CASE("expand repeats without copying and refuses what does not broadcast") {
  const Tensor x = counting({3, 1});
  const Tensor y = views::expand(x, {2, 3, 2});
  CHECK(y.to_vector<int64_t>() == std::vector<int64_t>{0, 0, 1, 1, 2, 2, 0, 0, 1, 1, 2, 2});
  CHECK(y.storage() == x.storage());
  CHECK(views::expand(x, {3, 0}).numel() == 0);
  CHECK_THROWS_WITH_AS(views::expand(x, {2, 2}), doctest::Contains("does not expand"), Error);
  CHECK_THROWS_WITH_AS(views::expand(x, {1}), doctest::Contains("fewer dimensions"), Error);
  CHECK_THROWS_WITH_AS(views::expand(x, {3, -2}), doctest::Contains("negative"), Error);
}
