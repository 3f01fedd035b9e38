#include "tessera/autograd/ops/loss.h"

#include <doctest/doctest.h>

#include <cmath>

#include "tessera/autograd/ops/triangle.h"
#include "tessera/autograd/registry.h"
#include "tessera/autograd/tape.h"
#include "tessera/core/create.h"

using namespace tessera;

TEST_CASE("binary cross entropy equals the formula and stays finite for large logits") {
  const Tensor x = tensor({0.3, -1.2}, {2}, DType::f64);
  const Tensor t = tensor({1, 0.25}, {2}, DType::f64);
  const auto losses =
      binary_cross_entropy_with_logits(x, t, {}, Reduction::none).to_vector<double>();
  const auto s = [](double v) { return 1 / (1 + std::exp(-v)); };
  CHECK(losses[0] == doctest::Approx(-std::log(s(0.3))));
  CHECK(losses[1] == doctest::Approx(-0.25 * std::log(s(-1.2)) - 0.75 * std::log(1 - s(-1.2))));
  const Tensor far = tensor({1e4, -1e4, -1e4, 1e4}, {4});
  const Tensor goal = tensor({1, 0, 1, 0}, {4});
  const auto extreme =
      binary_cross_entropy_with_logits(far, goal, {}, Reduction::none).to_vector<float>();
  CHECK(extreme == std::vector<float>{0, 0, 1e4f, 1e4f});
  const Tensor weight = tensor({2}, {1});
  CHECK(binary_cross_entropy_with_logits(far, goal, weight).item() == 1e4);
}

TEST_CASE("losses of distances switch between their branches where they should") {
  const Tensor x = tensor({0, 0, 0}, {3}, DType::f64);
  const Tensor y = tensor({0.1, -0.5, 3}, {3}, DType::f64);
  CHECK(mse_loss(x, y, Reduction::sum).item() == doctest::Approx(0.01 + 0.25 + 9));
  CHECK(l1_loss(x, y).item() == doctest::Approx(1.2));
  const auto smooth = smooth_l1_loss(x, y, 0.5, Reduction::none).to_vector<double>();
  CHECK(smooth[0] == doctest::Approx(0.01));
  CHECK(smooth[1] == doctest::Approx(0.25));
  CHECK(smooth[2] == doctest::Approx(2.75));
  const auto huber = huber_loss(x, y, 0.5, Reduction::none).to_vector<double>();
  for (size_t i = 0; i < 3; ++i) CHECK(huber[i] == doctest::Approx(0.5 * smooth[i]));
  CHECK(smooth_l1_loss(x, y, 0).item() == doctest::Approx(1.2));
  CHECK_THROWS_WITH_AS(huber_loss(x, y, 0), doctest::Contains("huber_loss: delta"), Error);
}

TEST_CASE("kl_div of a distribution with itself is 0, and q = 0 costs nothing") {
  Tensor log_p = tensor({std::log(0.5), std::log(0.5), -INFINITY}, {3}, DType::f64);
  const Tensor q = tensor({0.5, 0.5, 0}, {3}, DType::f64);
  CHECK(kl_div(log_p, q, Reduction::sum).item() == doctest::Approx(0));
  log_p.set_requires_grad();
  kl_div(log_p, q, Reduction::sum).backward();
  CHECK(log_p.grad().to_vector<double>() == std::vector<double>{-0.5, -0.5, 0});
}

TEST_CASE("a mean over no elements is 0") {
  CHECK(mse_loss(zeros({0}), zeros({0})).item() == 0);
}

TEST_CASE("tril and triu keep one side of a diagonal, of integers too") {
  const Tensor x = from_values(std::vector<int64_t>{1, 2, 3, 4, 5, 6}, {2, 3});
  CHECK(tril(x).to_vector<int64_t>() == std::vector<int64_t>{1, 0, 0, 4, 5, 0});
  CHECK(tril(x, 1).to_vector<int64_t>() == std::vector<int64_t>{1, 2, 0, 4, 5, 6});
  CHECK(triu(x).to_vector<int64_t>() == std::vector<int64_t>{1, 2, 3, 0, 5, 6});
  CHECK(triu(x, -1).to_vector<int64_t>() == x.to_vector<int64_t>());
  CHECK(triu(x, 7).to_vector<int64_t>() == std::vector<int64_t>(6, 0));
}
