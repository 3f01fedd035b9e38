#include "tessera/nn/moving_average.h"

#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/nn/check.h"
#include "tessera/tests/support.h"

using namespace tessera;
using namespace tessera::test;

namespace {

constexpr int64_t kBatch = 2, kLength = 150, kWidth = 3, kDims = 4;

struct Values {
  std::vector<double> delta, alpha, beta, gamma, omega, x;
};

Values values_of(const DampedEma& ema, const Tensor& x) {
  return {ema.delta.to_vector<double>(), ema.alpha.to_vector<double>(),
          ema.beta.to_vector<double>(),  ema.gamma.to_vector<double>(),
          ema.omega.to_vector<double>(), x.to_vector<double>()};
}

double logistic(double v) {
  return 1 / (1 + std::exp(-v));
}

// The formula as it stands on paper. `taps`: how far κ reaches.
Tensor explicit_sum(const DampedEma& ema, const Tensor& x, bool both, int64_t taps = kLength) {
  const Values v = values_of(ema, x);
  auto kappa = [&](int64_t row, int64_t lag) {
    double total = 0;
    for (int64_t n = 0; n < kDims; ++n) {
      const auto i = static_cast<size_t>(row * kDims + n);
      const double p = logistic(v.delta[i]), q = 1 - p * logistic(v.alpha[i]);
      total += v.gamma[i] * p * v.beta[i] * std::pow(q, static_cast<double>(lag));
    }
    return lag < taps ? total / std::sqrt(static_cast<double>(kDims)) : 0;
  };
  std::vector<double> m;
  for (int64_t b = 0; b < kBatch; ++b) {
    for (int64_t t = 0; t < kLength; ++t) {
      for (int64_t d = 0; d < kWidth; ++d) {
        auto at = [&](int64_t s) {
          return v.x[static_cast<size_t>((b * kLength + s) * kWidth + d)];
        };
        double total = v.omega[static_cast<size_t>(d)] * at(t);
        for (int64_t s = 0; s <= t; ++s) total += kappa(d, t - s) * at(s);
        for (int64_t s = t; both && s < kLength; ++s) total += kappa(kWidth + d, s - t) * at(s);
        m.push_back(total);
      }
    }
  }
  return from_values(m, x.shape());
}

DampedEma make(bool both, int64_t truncation = 0) {
  RandomScope scope(3);
  DampedEma ema(kWidth, kDims, both, truncation);
  ema.to(DType::f64);
  return ema;
}

Tensor input() {
  return samples::normal({kBatch, kLength, kWidth});
}

}  // namespace

TEST_CASE("the moving average by transforms is the explicit sum, in one direction and in both") {
  for (const bool both : {false, true}) {
    for (const int64_t taps : {int64_t{0}, int64_t{4}, kLength + 5}) {
      const DampedEma ema = make(both, taps);
      CHECK(worst(ema(input()), explicit_sum(ema, input(), both, taps == 0 ? kLength : taps)) <
            1e-12);
    }
  }
}

TEST_CASE(
    "in f32 the moving average by transforms, in chunks, by recurrence and as a sum differ by "
    "1e-5") {
  DampedEma ema = make(false);
  ema.to(DType::f32);
  const Tensor x = input().to(DType::f32);
  const Tensor sum = explicit_sum(ema, x, false);
  CHECK(worst(ema(x), sum) < 1e-5);
  RandomScope scope(3);
  const DampedEma by_transform(kWidth, kDims, false, kLength);
  CHECK(worst(by_transform(x), sum) < 1e-5);
  Tensor state;
  TensorList steps;
  for (int64_t t = 0; t < kLength; ++t) steps.push_back(ema.step(slice(x, 1, t, t + 1), state));
  CHECK(worst(concat(steps, 1), sum) < 1e-5);
}

TEST_CASE("steps of any size go on from a state as the whole sequence does") {
  const DampedEma ema = make(false);
  const Tensor whole = ema(input());
  for (const int64_t size : {1, 7, 64, 70, 150}) {
    Tensor state;
    TensorList parts;
    for (int64_t t = 0; t < kLength; t += size) {
      parts.push_back(ema.step(slice(input(), 1, t, std::min(kLength, t + size)), state));
    }
    CHECK(worst(concat(parts, 1), whole) < 1e-12);
    CHECK(state.shape() == Shape{kBatch, kWidth, kDims});
  }
}

TEST_CASE("no bit of a moving average in one direction depends on a later token") {
  DampedEma ema = make(false);
  ema.to(DType::f32);
  const Tensor x = input().to(DType::f32), before = ema(x);
  for (const int64_t t : {1, 40, 64, 100}) {
    const Tensor after = ema(concat({slice(x, 1, 0, t), slice(x, 1, t) * -3 + 1}, 1));
    CHECK(same_bits(slice(before, 1, 0, t), slice(after, 1, 0, t)));
  }
}

TEST_CASE("tokens that are not there reach no other token") {
  const DampedEma ema = make(true);
  const Tensor valid = samples::integers({kBatch, kLength}, 0, 2).to(DType::boolean);
  const Tensor kept = input() * unsqueeze(valid.to(DType::f64), -1);
  const Tensor mask = unsqueeze(valid.to(DType::f64), -1);
  CHECK(worst(ema(input(), valid) * mask, ema(kept) * mask) < 1e-12);
}

TEST_CASE("steps of a moving average in both directions are refused") {
  Tensor state;
  CHECK_THROWS_WITH_AS(make(true).step(input(), state), doctest::Contains("one direction"), Error);
}

TEST_SUITE("gradient") {
  TEST_CASE("the moving average has right gradients through its recurrence too") {
    DampedEma ema = make(false);
    const auto result =
        check_module(ema,
                     [](Module& m, const TensorList& in) {
                       Tensor state = in[1];
                       const Tensor y = static_cast<DampedEma&>(m).step(in[0], state);
                       return TensorList{y, state};
                     },
                     {samples::normal({2, 3, kWidth}), samples::normal({2, kWidth, kDims}, 1)},
                     {.max_entries = 60});
    CHECK_MESSAGE(result.ok, result.message);
  }
}
