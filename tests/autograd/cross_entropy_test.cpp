#include "tessera/autograd/ops/cross_entropy.h"

#include <doctest/doctest.h>

#include <cmath>

#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/matmul.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/registry.h"
#include "tessera/autograd/tape.h"
#include "tessera/core/create.h"
#include "tessera/core/parallel.h"

using namespace tessera;

namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

Tensor ids(std::vector<int64_t> values) {
  return from_values(values, {static_cast<int64_t>(values.size())});
}

Tensor leaf(const Tensor& x) {
  Tensor copy = x.detach();
  return copy.set_requires_grad();
}

}  // namespace

TEST_CASE("cross entropy equals the formula, smoothed too") {
  const Tensor x = tensor({1, 2, 3, 0, -1, 0.5}, {2, 3}, DType::f64);
  const double lse0 = std::log(std::exp(1) + std::exp(2) + std::exp(3));
  const double lse1 = std::log(1 + std::exp(-1) + std::exp(0.5));
  const auto each =
      cross_entropy(x, ids({0, 2}), {.reduction = Reduction::none}).to_vector<double>();
  CHECK(each[0] == doctest::Approx(lse0 - 1).epsilon(1e-12));
  CHECK(each[1] == doctest::Approx(lse1 - 0.5).epsilon(1e-12));
  CHECK(cross_entropy(x, ids({0, 2})).item() == doctest::Approx((each[0] + each[1]) / 2));
  const double smooth =
      cross_entropy(x, ids({0, 2}), {.label_smoothing = 0.3, .reduction = Reduction::sum}).item();
  const double uniform = (lse0 - 2) + (lse1 + 0.5 / 3);
  CHECK(smooth == doctest::Approx(0.7 * (each[0] + each[1]) + 0.3 * uniform).epsilon(1e-12));
}

TEST_CASE("the mean of a cross entropy leaves ignored targets out") {
  const Tensor x = samples::normal({4, 3});
  const Tensor kept = ids({2, -1, -1, 0});
  const auto each = cross_entropy(x, kept, {.reduction = Reduction::none}).to_vector<double>();
  CHECK(each[1] == 0);
  CHECK(each[2] == 0);
  CHECK(cross_entropy(x, kept).item() == doctest::Approx((each[0] + each[3]) / 2));
}

TEST_CASE("a cross entropy with every target ignored is 0 and has zero gradient") {
  const Tensor x = leaf(samples::normal({2, 3}));
  const Tensor loss = cross_entropy(x, ids({-100, -100}), {.ignore_index = -100});
  CHECK(loss.item() == 0);
  loss.backward();
  for (double g : x.grad().to_vector<double>()) CHECK(g == 0);
}

TEST_CASE("masked logits of −∞ cost nothing unless they are the target") {
  const Tensor x = leaf(tensor({0, -kInf, 0}, {1, 3}, DType::f64));
  const Tensor loss = cross_entropy(x, ids({0}));
  CHECK(loss.item() == doctest::Approx(std::log(2.0)));
  loss.backward();
  CHECK(x.grad().to_vector<double>()[1] == 0);
  CHECK(cross_entropy(x, ids({1})).item() == kInf);
  CHECK(cross_entropy(full({1, 2}, -kInf), ids({1})).item() == kInf);
}

TEST_CASE("a wrong target is named with its value and its position") {
  const Tensor targets = from_values(std::vector<int64_t>{0, 1, 7, 2}, {2, 2});
  CHECK_THROWS_WITH_AS(cross_entropy(samples::normal({2, 2, 3}), targets),
                       doctest::Contains("cross_entropy: target 7 at [1, 0] is not in [0, 3)"),
                       Error);
}

TEST_CASE("the gradient of a confident right answer does not cancel to zero") {
  const Tensor x = leaf(tensor({18, 0}, {1, 2}));
  cross_entropy(x, ids({0})).backward();
  const auto g = x.grad().to_vector<double>();
  CHECK(g[0] == doctest::Approx(-std::exp(-18.0)).epsilon(1e-3));
  CHECK(g[1] == doctest::Approx(std::exp(-18.0)).epsilon(1e-3));
}

TEST_CASE("soft targets that are one-hot or smoothed give the hard cross entropy") {
  const Tensor x = samples::normal({2, 3});
  const Tensor one_hot = tensor({0, 1, 0, 0, 0, 1}, {2, 3}, DType::f64);
  CHECK(soft_cross_entropy(x, one_hot).item() ==
        doctest::Approx(cross_entropy(x, ids({1, 2})).item()).epsilon(1e-12));
  CHECK(soft_cross_entropy(x, one_hot * 0.7 + 0.1).item() ==
        doctest::Approx(cross_entropy(x, ids({1, 2}), {.label_smoothing = 0.3}).item())
            .epsilon(1e-12));
  const Tensor masked = tensor({0, -kInf, 1, 0, 0, 0}, {2, 3}, DType::f64);
  const Tensor q = tensor({0.5, 0, 0.5, 0, 0, 1}, {2, 3}, DType::f64);
  CHECK(std::isfinite(soft_cross_entropy(masked, q).item()));
}

TEST_CASE("the head with its loss by chunks equals the logits with their loss") {
  const Tensor h = samples::normal({700, 8}).to(DType::f32);  // more than one chunk
  const Tensor w = samples::normal({9000, 8}, 1).to(DType::f32);
  const Tensor targets = samples::integers({700}, -1, 9000);
  const Tensor ha = leaf(h), wa = leaf(w), hb = leaf(h), wb = leaf(w);
  const Tensor fused = linear_cross_entropy(ha, wa, targets);
  const Tensor plain = cross_entropy(linear(hb, wb), targets);
  CHECK(fused.item() == doctest::Approx(plain.item()).epsilon(1e-5));
  (fused * 2).backward();
  (plain * 2).backward();
  const auto close = [](const Tensor& a, const Tensor& b) {
    const Tensor d = (a - b).to(DType::f64);
    return sum(d * d).item() <= 1e-10 * sum(b * b).item();
  };
  CHECK(close(ha.grad(), hb.grad()));
  CHECK(close(wa.grad(), wb.grad()));
}

TEST_CASE("cross entropies give the same bits for any number of threads") {
  const Tensor x = samples::normal({300, 200}).to(DType::f32);
  const Tensor w = samples::normal({500, 200}, 1).to(DType::f32);
  const Tensor targets = samples::integers({300}, -1, 200);
  const auto run = [&] {
    const Tensor a = leaf(x), b = leaf(x), c = leaf(w);
    const Tensor loss = cross_entropy(a, targets) + linear_cross_entropy(b, c, targets);
    loss.backward();
    return std::vector<std::vector<float>>{loss.to_vector<float>(), a.grad().to_vector<float>(),
                                           b.grad().to_vector<float>(),
                                           c.grad().to_vector<float>()};
  };
  const int before = num_threads();
  set_num_threads(1);
  const auto one = run();
  set_num_threads(2);
  CHECK(run() == one);
  set_num_threads(before);
}
