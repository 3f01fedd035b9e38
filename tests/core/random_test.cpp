#include "tessera/core/random.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/parallel.h"

using namespace tessera;

namespace {

struct Moments {
  double mean = 0, variance = 0, low = 0, high = 0;
};

Moments moments(const Tensor& x) {
  const auto values = x.to_vector<double>();
  const auto n = static_cast<double>(values.size());
  Moments m;
  m.mean = std::accumulate(values.begin(), values.end(), 0.0) / n;
  for (double v : values) m.variance += (v - m.mean) * (v - m.mean) / n;
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  m.low = *low;
  m.high = *high;
  return m;
}

template <class Draw>
void check_same_for_any_thread_count(const Shape& shape, DType dtype, const Draw& draw) {
  const int before = num_threads();
  set_num_threads(1);
  const Tensor one = empty(shape, {dtype, {}});
  draw(one);
  set_num_threads(2);
  const Tensor two = empty(shape, {dtype, {}});
  draw(two);
  set_num_threads(before);
  CHECK(one.to_vector<double>() == two.to_vector<double>());
}

}  // namespace

TEST_CASE("philox gives the published known answers") {
  using Words = std::array<uint32_t, 4>;
  CHECK(philox(0, 0, 0) == Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  CHECK(philox(~0ull, ~0ull, ~0ull) == Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(philox(0x299f31d0a4093822, 0x0370734413198a2e, 0x85a308d3243f6a88) ==
        Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("element i of a uniform tensor is made of its own counter") {
  const RandomKey key{0x123456789abcdef, 77};
  const Tensor x = empty({1003});
  kernels::uniform(x, 0, 1, key);
  const Tensor y = empty({501}, {DType::f64, {}});
  kernels::uniform(y, 0, 1, key);
  for (int64_t i = 0; i < x.numel(); ++i) {
    const auto words = philox(key.seed, key.stream, static_cast<uint64_t>(i / 4));
    const uint32_t word = words[static_cast<size_t>(i % 4)];
    REQUIRE(x.data<float>()[i] == static_cast<float>(word >> 8) / 16777216.0f);
  }
  for (int64_t i = 0; i < y.numel(); ++i) {
    const auto words = philox(key.seed, key.stream, static_cast<uint64_t>(i / 2));
    const auto at = static_cast<size_t>(i % 2 * 2);
    const uint64_t word = (uint64_t{words[at]} << 32 | words[at + 1]) >> 11;
    REQUIRE(y.data<double>()[i] == static_cast<double>(word) * 0x1p-53);
  }
}

TEST_CASE("random kernels give the same bits for any number of threads") {
  for (DType dtype : {DType::f32, DType::f64}) {
    check_same_for_any_thread_count({70'001}, dtype, [](const Tensor& x) {
      kernels::uniform(x, -2, 3, {1, 2});
    });
    check_same_for_any_thread_count({70'001}, dtype, [](const Tensor& x) {
      kernels::normal(x, 1, 2, {1, 2});
    });
    check_same_for_any_thread_count({70'001}, dtype, [](const Tensor& x) {
      kernels::truncated_normal(x, 0, 1, -2, 2, {3, 4});
    });
    check_same_for_any_thread_count({70'001}, dtype, [](const Tensor& x) {
      kernels::bernoulli(x, 0.3, {1, 2});
    });
  }
}

TEST_CASE("random values have the moments of their distributions") {
  for (DType dtype : {DType::f32, DType::f64}) {
    const Tensor x = empty({400, 500}, {dtype, {}});
    kernels::uniform(x, -1, 3, {9, 1});
    Moments m = moments(x);
    CHECK(m.mean == doctest::Approx(1).epsilon(0.01));
    CHECK(m.variance == doctest::Approx(16.0 / 12).epsilon(0.01));
    CHECK(m.low >= -1);
    CHECK(m.high < 3);

    kernels::normal(x, 2, 0.5, {9, 2});
    m = moments(x);
    CHECK(m.mean == doctest::Approx(2).epsilon(0.01));
    CHECK(m.variance == doctest::Approx(0.25).epsilon(0.01));
    CHECK(m.high > 3.9);

    // Cut at two deviations: the variance is 1 − 2·2·φ(2) / (Φ(2) − Φ(−2)) = 0.7737.
    kernels::truncated_normal(x, 0, 1, -2, 2, {9, 3});
    m = moments(x);
    CHECK(std::abs(m.mean) < 0.01);
    CHECK(m.variance == doctest::Approx(0.7737).epsilon(0.01));
    CHECK(m.low >= -2);
    CHECK(m.high <= 2);
  }
}

TEST_CASE("a truncated normal far in a tail stays in its bounds and spreads") {
  const Tensor x = empty({20'000}, {DType::f64, {}});
  for (double side : {1.0, -1.0}) {
    kernels::truncated_normal(x, 0, 1, side > 0 ? 9 : -10, side > 0 ? 10 : -9, {5, 6});
    const Moments m = moments(x);
    CHECK(m.low >= (side > 0 ? 9 : -10));
    CHECK(m.high <= (side > 0 ? 10 : -9));
    CHECK(side * m.mean == doctest::Approx(9.1085).epsilon(0.001));  // ≈ 9 + 1 / (9 + 2 / 9)
    CHECK(m.variance > 0.009);
  }
}

TEST_CASE("quantiles of a wide truncated normal invert the distribution function") {
  const RandomKey key{4, 4};
  const Tensor u = empty({4096}, {DType::f64, {}});
  const Tensor x = empty({4096}, {DType::f64, {}});
  kernels::uniform(u, 0, 1, key);
  kernels::truncated_normal(x, 0, 1, -8, 8, key);
  for (int64_t i = 0; i < u.numel(); ++i) {
    const double p = 0.5 * std::erfc(-x.data<double>()[i] / std::sqrt(2.0));
    REQUIRE(std::abs(p - u.data<double>()[i]) < 2e-15);
  }
}

TEST_CASE("bernoulli draws the same mask for every dtype, and 0 and 1 are certain") {
  const RandomKey key{3, 8};
  const Tensor reference = empty({10'000});
  kernels::bernoulli(reference, 0.3, key);
  CHECK(moments(reference).mean == doctest::Approx(0.3).epsilon(0.05));
  for (DType dtype : {DType::f64, DType::bf16, DType::f16, DType::i64, DType::u8, DType::boolean}) {
    const Tensor x = empty({10'000}, {dtype, {}});
    kernels::bernoulli(x, 0.3, key);
    CHECK(x.to_vector<double>() == reference.to_vector<double>());
  }
  kernels::bernoulli(reference, 0, key);
  CHECK(moments(reference).high == 0);
  kernels::bernoulli(reference, 1, key);
  CHECK(moments(reference).low == 1);
}

TEST_CASE("a uniform draw never reaches its upper bound by rounding") {
  const Tensor x = empty({1 << 18});
  kernels::uniform(x, 1, 1.0000002, {1, 1});
  CHECK(moments(x).high < static_cast<double>(1.0000002f));
}

TEST_CASE("random tensors of size 0 and wrong arguments") {
  kernels::normal(empty({3, 0}), 0, 1, {});
  CHECK(randperm(0).numel() == 0);
  const Tensor x = empty({2, 3});
  CHECK_THROWS_WITH_AS(kernels::uniform(x, 1, 0, {}), doctest::Contains("uniform: bounds"), Error);
  CHECK_THROWS_WITH_AS(kernels::normal(x, 0, -1, {}), doctest::Contains("normal: negative"), Error);
  CHECK_THROWS_WITH_AS(kernels::truncated_normal(x, 0, 1, 2, 2, {}),
                       doctest::Contains("truncated_normal: bounds"), Error);
  CHECK_THROWS_WITH_AS(kernels::bernoulli(x, 1.5, {}), doctest::Contains("bernoulli: prob"), Error);
  CHECK_THROWS_WITH_AS(kernels::normal(empty({2}, {DType::i64, {}}), 0, 1, {}),
                       doctest::Contains("normal: wants f32 or f64"), Error);
  CHECK_THROWS_WITH_AS(randint(3, 3, {2}), doctest::Contains("randint"), Error);
  CHECK_THROWS_WITH_AS(rand({2}, DType::i32), doctest::Contains("rand: wants a floating"), Error);
  const Tensor strided(x.storage(), {3, 2}, {1, 3}, 0, DType::f32);
  CHECK_THROWS_WITH_AS(kernels::uniform(strided, 0, 1, {}), doctest::Contains("dense"), Error);
}

TEST_CASE("a generator is unbiased, repeats for the same seed and differs for another") {
  Generator a(1), b(1), c(1, 1);
  std::array<int, 6> counts{};
  bool differs = false;
  for (int i = 0; i < 60'000; ++i) {
    const int64_t value = a.below(6);
    REQUIRE(value == b.below(6));
    differs |= value != c.below(6);
    ++counts[static_cast<size_t>(value)];
  }
  CHECK(differs);
  for (int count : counts) CHECK(std::abs(count - 10'000) < 500);
  double sum = 0, squares = 0;
  for (int i = 0; i < 100'000; ++i) {
    const double z = a.normal();
    sum += z;
    squares += z * z;
  }
  CHECK(std::abs(sum) < 1500);
  CHECK(squares == doctest::Approx(100'000).epsilon(0.02));
  CHECK_THROWS_WITH_AS(a.below(0), doctest::Contains("below: wants a positive"), Error);
}

TEST_CASE("permuted_index is a permutation for every size and every key gives another") {
  for (int64_t n : {1, 2, 3, 4, 5, 16, 17, 100, 1000, 4097}) {
    std::vector<bool> seen(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) {
      const int64_t to = permuted_index(i, n, {7, 3});
      REQUIRE(to >= 0);
      REQUIRE(to < n);
      REQUIRE_FALSE(seen[static_cast<size_t>(to)]);
      seen[static_cast<size_t>(to)] = true;
    }
  }
  int64_t fixed = 0;
  for (int64_t i = 0; i < 1000; ++i) {
    fixed += permuted_index(i, 1000, {7, 3}) == permuted_index(i, 1000, {7, 4}) ? 1 : 0;
  }
  CHECK(fixed < 10);
  CHECK_THROWS_WITH_AS(permuted_index(5, 5, {}), doctest::Contains("permuted_index: index 5"),
                       Error);
  const int64_t huge = INT64_MAX;
  CHECK(permuted_index(huge - 1, huge, {}) < huge);
}

TEST_CASE("permuted_index sends an element everywhere equally often") {
  constexpr int64_t n = 5;
  for (int64_t i = 0; i < n; ++i) {
    std::array<int, n> counts{};
    for (uint64_t stream = 0; stream < 10'000; ++stream) {
      ++counts[static_cast<size_t>(permuted_index(i, n, {1, stream}))];
    }
    for (int count : counts) CHECK(std::abs(count - 2000) < 200);
  }
}

TEST_CASE("a random scope repeats its draws when it is opened again, and nests") {
  RandomScope outer(5, 1);
  const auto first = randn({8}).to_vector<float>();
  const RandomScope::State state = RandomScope::state();
  const auto second = randn({8}).to_vector<float>();
  CHECK(first != second);
  {
    RandomScope again(state);
    CHECK(randn({8}).to_vector<float>() == second);
    RandomScope other(6, 1);
    CHECK(randn({8}).to_vector<float>() != first);
  }
  CHECK(RandomScope::state().uses == 2);
  {
    RandomScope restart(5, 1);
    CHECK(randn({8}).to_vector<float>() == first);
  }
}

TEST_CASE("randint covers its range and randperm holds every number once") {
  const auto values = randint(-2, 3, {1000}).to_vector<int64_t>();
  CHECK(std::set<int64_t>(values.begin(), values.end()) == std::set<int64_t>{-2, -1, 0, 1, 2});
  auto order = randperm(257).to_vector<int64_t>();
  CHECK_FALSE(std::is_sorted(order.begin(), order.end()));
  std::sort(order.begin(), order.end());
  for (int64_t i = 0; i < 257; ++i) CHECK(order[static_cast<size_t>(i)] == i);
  CHECK(rand({4}, DType::bf16).dtype() == DType::bf16);
}
