#include "tessera/core/create.h"

#include <doctest/doctest.h>

#include <cmath>

using namespace tessera;

TEST_CASE("tensors are made with their shape, dtype and values") {
  CHECK(zeros({2, 3}).to_vector<float>() == std::vector<float>(6, 0));
  CHECK(ones({3}, {DType::i64, {}}).to_vector<int64_t>() == std::vector<int64_t>(3, 1));
  CHECK(full({2}, 2.5, {DType::bf16, {}}).to_vector<float>() == std::vector<float>(2, 2.5));
  CHECK(full({2}, 3, {DType::boolean, {}}).to_vector<int64_t>() == std::vector<int64_t>(2, 1));
  CHECK(scalar(4).shape() == Shape{});
  CHECK(scalar(4).item() == 4);
  CHECK(eye(3).to_vector<float>() == std::vector<float>{1, 0, 0, 0, 1, 0, 0, 0, 1});
  CHECK(eye(0).shape() == Shape{0, 0});
  CHECK(tensor({1, 2, 3, 4}, {2, 2}, DType::f64).to_vector<double>() ==
        std::vector<double>{1, 2, 3, 4});
  CHECK(from_values(std::vector<uint8_t>{7, 8}, {2, 1}).dtype() == DType::u8);
  CHECK(empty({0, 5}).numel() == 0);
  CHECK(zeros_like(tensor({1, 2}, {2}, DType::f64)).dtype() == DType::f64);
}

TEST_CASE("arange and linspace count as NumPy does") {
  CHECK(arange(0, 5).to_vector<int64_t>() == std::vector<int64_t>{0, 1, 2, 3, 4});
  CHECK(arange(5, 0, -2).to_vector<int64_t>() == std::vector<int64_t>{5, 3, 1});
  CHECK(arange(0, 1, 0.25, {DType::f32, {}}).numel() == 4);
  CHECK(arange(3, 3).numel() == 0);
  CHECK(arange(3, 0).numel() == 0);
  CHECK(linspace(0, 1, 5).to_vector<float>() == std::vector<float>{0, 0.25, 0.5, 0.75, 1});
  CHECK(linspace(2, 9, 1).to_vector<float>() == std::vector<float>{2});
  CHECK(linspace(2, 9, 0).numel() == 0);
}

TEST_CASE("wrong shapes and counts are errors that print them") {
  CHECK_THROWS_WITH_AS(empty({2, -1}), "empty: negative size in shape (2, -1)", Error);
  const int64_t huge = int64_t{1} << 40;
  CHECK_THROWS_WITH_AS(empty({huge, huge}), doctest::Contains("too many elements"), Error);
  CHECK_THROWS_WITH_AS(empty({huge, huge, 0}), doctest::Contains("too many elements"), Error);
  CHECK_THROWS_WITH_AS(empty({huge, 1 << 20}), doctest::Contains("memory: "), Error);
  CHECK_THROWS_WITH_AS(tensor({1, 2, 3}, {2, 2}), doctest::Contains("3 values do not fill"), Error);
  CHECK_THROWS_WITH_AS(arange(0, 1, 0), doctest::Contains("arange: step must not be 0"), Error);
  CHECK_THROWS_WITH_AS(arange(0, INFINITY), doctest::Contains("arange: cannot count"), Error);
  CHECK_THROWS_WITH_AS(arange(NAN, 1), doctest::Contains("arange: cannot count"), Error);
  CHECK_THROWS_WITH_AS(linspace(0, 1, -1), doctest::Contains("linspace: negative"), Error);
}
