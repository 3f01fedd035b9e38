#include "tessera/core/kernels/copy.h"

#include <doctest/doctest.h>

#include "tessera/core/create.h"
#include "tessera/core/kernels/fill.h"
#include "tessera/core/kernels/strided.h"
#include "tessera/core/parallel.h"
#include "tessera/core/random.h"
#include "tessera/core/view.h"

using namespace tessera;

namespace {

constexpr DType kAll[] = {DType::f32, DType::f64, DType::bf16, DType::f16,
                          DType::i64, DType::i32, DType::u8,   DType::boolean};

Tensor counting(const Shape& shape) {
  return views::reshape(arange(0, static_cast<double>(shape.numel()), 1, {DType::f32, {}}), shape);
}

}  // namespace

TEST_CASE("a copy reads and writes strided, reversed and broadcast views") {
  const Tensor x = counting({4, 6});
  const Tensor source = views::slice(views::transpose(x, 0, 1), 0, 5, -1, -2);  // (3, 4)
  const Tensor target = zeros({4, 6, 2});
  const Tensor window = views::select(views::slice(views::transpose(target, 0, 1), 0, 0, 3), 2, 1);
  kernels::copy(window, source);
  CHECK(window.to_vector<float>() == source.to_vector<float>());
  CHECK(source.to_vector<float>() == std::vector<float>{5, 11, 17, 23, 3, 9, 15, 21, 1, 7, 13, 19});
  double sum = 0;
  for (double v : target.to_vector<double>()) sum += v;
  CHECK(sum == 5 + 11 + 17 + 23 + 3 + 9 + 15 + 21 + 1 + 7 + 13 + 19);  // nothing else is touched
  const Tensor wide = empty({2, 3});
  kernels::copy(wide, views::expand(tensor({1, 2, 3}, {3}), {2, 3}));
  CHECK(wide.to_vector<float>() == std::vector<float>{1, 2, 3, 1, 2, 3});
}

TEST_CASE("every element type converts to every other") {
  const Tensor x = tensor({0, 1, 2, 100}, {4}, DType::f64);
  for (DType from : kAll) {
    for (DType to : kAll) {
      const Tensor y = kernels::cast(kernels::cast(x, from), to);
      CHECK(y.dtype() == to);
      const bool truth = from == DType::boolean || to == DType::boolean;
      CHECK(y.to_vector<double>() ==
            (truth ? std::vector<double>{0, 1, 1, 1} : std::vector<double>{0, 1, 2, 100}));
    }
  }
  CHECK(kernels::cast(tensor({-1.75, 2.75}, {2}), DType::i64).to_vector<int64_t>() ==
        std::vector<int64_t>{-1, 2});
  CHECK(kernels::cast(tensor({0.25}, {1}), DType::boolean).item() == 1);
}

TEST_CASE("large i64 values survive copies") {
  const std::vector<int64_t> values = {INT64_MAX, INT64_MIN, (int64_t{1} << 53) + 1};
  CHECK(kernels::clone(from_values(values, {3})).to_vector<int64_t>() == values);
}

TEST_CASE("tensors of size 0 and of rank 0 copy and fill") {
  kernels::copy(empty({0, 3}), empty({0, 3}));
  kernels::fill(empty({2, 0}), 1);
  const Tensor x = empty({});
  kernels::copy(x, scalar(3));
  CHECK(x.item() == 3);
  kernels::fill(x, 4);
  CHECK(x.item() == 4);
}

TEST_CASE("fill touches the view and nothing else, for every element type") {
  for (DType dtype : kAll) {
    const Tensor x = zeros({3, 4}, {dtype, {}});
    kernels::fill(views::slice(x, 1, 1, 4, 2), 1);
    CHECK(x.to_vector<double>() == std::vector<double>{0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1});
  }
}

TEST_CASE("shapes that differ are an error") {
  CHECK_THROWS_WITH_AS(kernels::copy(empty({2}), empty({1})), "copy: shapes differ: (2) from (1)",
                       Error);
}

TEST_CASE("contiguous copies only what needs it, and counts the bytes") {
  const Tensor x = counting({2, 3});
  const int64_t before = kernels::contiguous_bytes();
  CHECK(kernels::contiguous(x).is_same(x));
  CHECK(kernels::contiguous_bytes() == before);
  CHECK(kernels::contiguous(views::transpose(x, 0, 1)).to_vector<float>() ==
        std::vector<float>{0, 3, 1, 4, 2, 5});
  CHECK(kernels::contiguous_bytes() == before + 24);
}

TEST_CASE("large copies give the same result for any number of threads") {
  const int threads = num_threads();
  for (const Shape& shape : {Shape{100'003}, Shape{317, 311}, Shape{3, 40'000}, Shape{40'000, 3}}) {
    const Tensor x = counting(shape);
    const Tensor view =
        x.rank() == 2 ? views::transpose(x, 0, 1) : views::slice(x, 0, 0, INT64_MAX, 3);
    set_num_threads(1);
    const auto one = kernels::cast(view, DType::f64).to_vector<double>();
    set_num_threads(3);
    const auto three = kernels::cast(view, DType::f64).to_vector<double>();
    set_num_threads(threads);
    CHECK(one == three);
    Tensor flat = zeros(view.shape());
    kernels::fill(flat, 7);
    CHECK(flat.to_vector<float>() == std::vector<float>(static_cast<size_t>(view.numel()), 7));
  }
}

TEST_CASE("a strided loop visits every element of random views once") {
  Generator random(2);
  for (int i = 0; i < 200; ++i) {
    Tensor x = counting({1 + random.below(5), 1 + random.below(5), 1 + random.below(40)});
    x = views::transpose(x, random.below(3), random.below(3));
    x = views::slice(x, random.below(3), 0, INT64_MAX, 1 + random.below(3));
    const Tensor* operands[] = {&x};
    const kernels::StridedLoop loop(x.shape(), operands);
    std::vector<float> seen;
    loop.for_each_piece(1 + random.below(50), [&](const int64_t* offsets, int64_t count) {
      for (int64_t j = 0; j < count; ++j) {
        seen.push_back(x.data<float>()[offsets[0] + j * loop.row_stride(0)]);
      }
    });
    REQUIRE(seen == x.to_vector<float>());
  }
}
