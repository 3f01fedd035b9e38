#include "tessera/inference/generate.h"

#include <doctest/doctest.h>

#include <cmath>

#include "tessera/config/fields.h"
#include "tessera/config/json.h"
#include "tessera/core/create.h"
#include "tessera/inference/classify.h"

using namespace tessera;

namespace {

std::unique_ptr<Model> model() {
  RandomScope scope(3);
  return from_json<Choice<Model>>(
             Json::parse(R"({"type": "transformer", "width": 16, "depth": 2, "heads": 2,
                             "init_std": 0.3, "positions": "rotary"})"))
      .build(DataInfo{.vocabulary = 9, .context = 8});
}

std::vector<int64_t> text(const GenerateOptions& options, std::vector<int64_t> prompt = {1, 2}) {
  auto m = model();
  m->eval();
  std::vector<int64_t> out;
  generate(dynamic_cast<LanguageModel&>(*m), std::move(prompt), options, [&](int64_t token) {
    out.push_back(token);
    return true;
  });
  return out;
}

std::vector<double> frequencies(const std::vector<float>& logits, const SamplingOptions& options) {
  Generator random(1);
  std::vector<double> counts(logits.size());
  for (int i = 0; i < 20000; ++i)
    counts[static_cast<size_t>(sample(logits, options, random))] += 1.0 / 20000;
  return counts;
}

}  // namespace

TEST_CASE("greedy generation is the same with and without a cache, beyond the context too") {
  GenerateOptions options{.tokens = 30, .sampling = {.temperature = 0}};
  const auto cached = text(options);
  options.use_cache = false;
  CHECK(text(options) == cached);
  CHECK(cached.size() == 30);
}

TEST_CASE("the seed decides, and a longer prompt than the context uses its end") {
  const GenerateOptions a{.tokens = 20, .seed = 1};
  const GenerateOptions b{.tokens = 20, .seed = 2};
  CHECK(text(a) == text(a));
  CHECK(text(a) != text(b));
  CHECK(text(a, {8, 8, 8, 1, 2, 3, 4, 5, 6, 7, 0}) == text(a, {1, 2, 3, 4, 5, 6, 7, 0}));
  CHECK_THROWS_WITH_AS(text(a, {}), doctest::Contains("prompt is empty"), Error);
}

TEST_CASE("sampling follows the softmax, and temperature sharpens it") {
  const std::vector<float> logits = {0, 1, 2};
  const auto f = frequencies(logits, {});
  const double z = 1 + std::exp(1) + std::exp(2);
  CHECK(f[0] == doctest::Approx(1 / z).epsilon(0.08));
  CHECK(f[2] == doctest::Approx(std::exp(2) / z).epsilon(0.03));
  CHECK(frequencies(logits, {.temperature = 0.1})[2] > 0.99);
}

TEST_CASE("top-k and top-p keep the most probable tokens, always at least one") {
  const std::vector<float> logits = {3, 0, 2, 1};
  const auto k = frequencies(logits, {.top_k = 2});
  CHECK(k[1] == 0);
  CHECK(k[3] == 0);
  CHECK(k[0] == doctest::Approx(std::exp(1) / (1 + std::exp(1))).epsilon(0.03));
  CHECK(frequencies(logits, {.top_p = 1e-9})[0] == doctest::Approx(1));
  const auto p = frequencies(logits, {.top_p = 0.7});
  CHECK(p[0] > 0);
  CHECK(p[2] > 0);
  CHECK(p[3] == 0);
}

TEST_CASE("temperature zero takes the largest logit, the lowest id among equal ones") {
  Generator random(1);
  const std::vector<float> logits = {1, 5, 5, -INFINITY};
  CHECK(sample(logits, {.temperature = 0}, random) == 1);
  const std::vector<float> broken = {NAN, NAN};
  CHECK_THROWS_WITH_AS(sample(broken, {}, random), doctest::Contains("none of 2 logits"), Error);
}
