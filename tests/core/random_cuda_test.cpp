#include <doctest/doctest.h>

#include <cmath>

#include "tessera/core/create.h"
#include "tessera/core/cuda/capture.h"
#include "tessera/core/random.h"
#include "tessera/tests/support.h"

using namespace tessera;

namespace {

constexpr Device kDevice{Device::Kind::cuda, 0};
constexpr int64_t kSizes[] = {0, 1, 2, 3, 5, 1000, 70'001};

// fill(x) on the CPU and on the device: the largest difference relative to max(1, |value|).
template <class Fill>
double difference(int64_t n, DType dtype, const Fill& fill) {
  const Tensor a = empty({n}, {dtype, {}});
  const Tensor b = empty({n}, {dtype, kDevice});
  fill(a);
  fill(b);
  const auto x = a.to_vector<double>(), y = b.to_vector<double>();
  double worst = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    worst = std::max(worst, std::abs(x[i] - y[i]) / std::max(1.0, std::abs(x[i])));
  }
  return worst;
}

}  // namespace

TEST_SUITE_BEGIN("cuda");

TEST_CASE("uniform numbers of a device are those of the CPU, bit for bit") {
  if (!test::has_gpu()) return;
  for (DType dtype : {DType::f32, DType::f64}) {
    for (int64_t n : kSizes) {
      CHECK(difference(n, dtype, [](const Tensor& x) { kernels::uniform(x, 0, 1, {7, 3}); }) == 0);
      CHECK(difference(n, dtype, [](const Tensor& x) {
              kernels::uniform(x, -0.3, 1.7, {~0ull, ~0ull << 20});
            }) == 0);
    }
  }
}

TEST_CASE("normal numbers of a device are those of the CPU to a few units in the last place") {
  if (!test::has_gpu()) return;
  for (DType dtype : {DType::f32, DType::f64}) {
    const double limit = dtype == DType::f32 ? 1e-6 : 1e-14;
    for (int64_t n : kSizes) {
      CHECK(difference(n, dtype, [](const Tensor& x) {
              kernels::normal(x, 1, 2, {7, 3});
            }) < limit);
      CHECK(difference(n, dtype, [](const Tensor& x) {
              kernels::truncated_normal(x, 0, 1, -2, 2, {7, 4});
            }) < limit);
      CHECK(difference(n, dtype, [](const Tensor& x) {
              kernels::truncated_normal(x, 0, 1, 5, 7, {7, 4});
            }) < 10 * limit);
    }
  }
}

TEST_CASE("bernoulli masks of a device are those of the CPU in every dtype") {
  if (!test::has_gpu()) return;
  for (DType dtype : {DType::f32, DType::f64, DType::bf16, DType::f16, DType::i64, DType::i32,
                      DType::u8, DType::boolean}) {
    for (double p : {0.0, 0.3, 1.0}) {
      CHECK(difference(5003, dtype, [p](const Tensor& x) {
              kernels::bernoulli(x, p, {3, 8});
            }) == 0);
    }
  }
}

TEST_CASE("rand and randn make tensors on a device") {
  if (!test::has_gpu()) return;
  const auto draw = [](Device device, DType dtype) {
    RandomScope scope(4, 2);
    return rand({33}, dtype, device);
  };
  for (DType dtype : {DType::f32, DType::f64, DType::bf16, DType::f16}) {
    const Tensor x = draw(kDevice, dtype);
    CHECK(x.device() == kDevice);
    CHECK(x.dtype() == dtype);
    CHECK(x.to_vector<double>() == draw({}, dtype).to_vector<double>());
  }
  RandomScope scope(4, 2);
  CHECK(randn({3}, DType::f32, kDevice).device() == kDevice);
}

TEST_CASE("a replayed graph draws the numbers of the step that was set") {
  if (!test::has_gpu()) return;
  const auto eager = [](uint64_t step) {
    RandomScope scope(11, step);
    const Tensor first = rand({65}, DType::f32, kDevice);
    const Tensor second = rand({65}, DType::f32, kDevice);
    return std::pair{first.to_vector<float>(), second.to_vector<float>()};
  };
  const auto fixed = [](const Tensor& x) { kernels::uniform(x, 0, 1, {5, 6}); };
  const Tensor known = empty({65}, {DType::f32, kDevice});
  fixed(known);
  eager(0);
  Tensor first, second, again, constant;
  const CapturedGraph graph(kDevice, [&] {
    RandomScope scope(11, 3);
    const RandomScope::State state = RandomScope::state();
    first = rand({65}, DType::f32, kDevice);
    {
      RandomScope replayed(state);  // what recomputation under a checkpoint does
      again = rand({65}, DType::f32, kDevice);
    }
    second = rand({65}, DType::f32, kDevice);
    constant = empty({65}, {DType::f32, kDevice});
    fixed(constant);
  });
  for (uint64_t step : {3u, 4u, 4u, 100u}) {
    set_captured_step(kDevice, step);
    graph.replay();
    const auto [a, b] = eager(step);
    CHECK(first.to_vector<float>() == a);
    CHECK(again.to_vector<float>() == a);
    CHECK(second.to_vector<float>() == b);
    CHECK(constant.to_vector<float>() == known.to_vector<float>());
  }
}

TEST_SUITE_END();
