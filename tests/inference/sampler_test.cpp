#include "tessera/inference/sampler.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "tessera/core/error.h"

using namespace tessera;

namespace {

std::vector<double> frequencies(const std::vector<float>& logits, const SamplingOptions& options) {
  Generator random(1);
  std::vector<double> counts(logits.size());
  for (int i = 0; i < 20000; ++i) {
    counts[static_cast<size_t>(sample(logits, options, random.uniform()))] += 1.0 / 20000;
  }
  return counts;
}

// Probabilities by sorting, as the definitions say.
std::vector<double> expected(const std::vector<float>& logits, const SamplingOptions& o) {
  std::vector<double> p(logits.size());
  std::vector<float> sorted = logits;
  std::sort(sorted.rbegin(), sorted.rend());
  float least = sorted.back();
  if (o.top_k > 0) least = sorted[std::min(sorted.size(), static_cast<size_t>(o.top_k)) - 1];
  const auto weight = [&](float x) { return std::exp((x - sorted[0]) / o.temperature); };
  double total = 0, reached = 0;
  for (const float x : sorted) total += x >= least ? weight(x) : 0;
  for (const float x : sorted) {
    if (reached >= o.top_p * total) {
      least = std::max(least, std::nextafter(x, 1e9F));
      break;
    }
    reached += weight(x);
  }
  total = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    const bool kept = logits[i] >= least && weight(logits[i]) >= o.min_p;
    total += p[i] = kept ? weight(logits[i]) : 0;
  }
  for (double& x : p) x /= total;
  return p;
}

}  // namespace

TEST_CASE("sampling follows the softmax, and temperature sharpens it") {
  const std::vector<float> logits = {0, 1, 2};
  const auto f = frequencies(logits, {});
  const double z = 1 + std::exp(1) + std::exp(2);
  CHECK(f[0] == doctest::Approx(1 / z).epsilon(0.08));
  CHECK(f[2] == doctest::Approx(std::exp(2) / z).epsilon(0.03));
  CHECK(frequencies(logits, {.temperature = 0.1})[2] > 0.99);
}

TEST_CASE("top-k, top-p and min-p keep the most probable tokens, always at least one") {
  const std::vector<float> logits = {3, 0, 2, 1, -1, 2.5F, 0.5F};
  for (const SamplingOptions& o :
       {SamplingOptions{.top_k = 2}, SamplingOptions{.top_p = 1e-9}, SamplingOptions{.top_p = 0.7},
        SamplingOptions{.min_p = 0.2}, SamplingOptions{.top_k = 100, .min_p = 1},
        SamplingOptions{.temperature = 2, .top_k = 4, .top_p = 0.8, .min_p = 0.1}}) {
    CAPTURE(o.top_k);
    CAPTURE(o.top_p);
    CAPTURE(o.min_p);
    const auto p = expected(logits, o);
    const auto f = frequencies(logits, o);
    for (size_t i = 0; i < p.size(); ++i) {
      CHECK((p[i] > 0) == (f[i] > 0));
      CHECK(std::abs(p[i] - f[i]) < 0.015);
    }
  }
}

TEST_CASE("equal logits stay or go together") {
  const auto f = frequencies({1, 2, 2, 0}, {.top_k = 1});
  CHECK(f[1] == doctest::Approx(0.5).epsilon(0.05));
  CHECK(f[1] + f[2] == doctest::Approx(1));
}

TEST_CASE("temperature zero takes the largest logit, the lowest id among equal ones") {
  const std::vector<float> logits = {1, 5, 5, -INFINITY};
  CHECK(sample(logits, {.temperature = 0}, 0.9) == 1);
  const std::vector<float> broken = {NAN, NAN};
  CHECK_THROWS_WITH_AS(sample(broken, {}, 0), doctest::Contains("none of 2 logits"), Error);
  CHECK(sample(std::vector<float>{NAN, 1, INFINITY}, {}, 0.99) == 1);
}

TEST_CASE("the number drawn picks the id at which probabilities in the order of ids pass it") {
  const std::vector<float> logits = {0, 0, 0, 0};
  CHECK(sample(logits, {}, 0) == 0);
  CHECK(sample(logits, {}, 0.26) == 1);
  CHECK(sample(logits, {}, 0.99999999) == 3);
}

TEST_CASE("a repetition penalty divides positive logits of seen ids and multiplies negative ones") {
  Sampler sampler({.temperature = 0, .repetition_penalty = 2}, 1);
  sampler.see(std::vector<int64_t>{1, 3});
  CHECK(sampler.next(std::vector<float>{1.1F, 2, 0, 1}) == 0);  // 1.1, 1, 0, 0.5
  CHECK(sampler.next(std::vector<float>{1.1F, 2, 0, 1}) == 1);  // 0 was seen by now
  CHECK(sampler.next(std::vector<float>{-1, -1, -1.5F, -1}) == 2);
}

TEST_CASE("a sampler's choices are those of its seed") {
  const std::vector<float> logits(50, 0);
  const auto ids = [&](uint64_t seed) {
    Sampler sampler({}, seed);
    std::vector<int64_t> out;
    for (int i = 0; i < 20; ++i) out.push_back(sampler.next(logits));
    return out;
  };
  CHECK(ids(1) == ids(1));
  CHECK(ids(1) != ids(2));
}
