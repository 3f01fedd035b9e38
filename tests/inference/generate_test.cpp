#include "tessera/inference/generate.h"

#include <doctest/doctest.h>

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
