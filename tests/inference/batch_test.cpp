// Batches of prompts beside each prompt alone.
#include <doctest/doctest.h>

#include "tessera/config/fields.h"
#include "tessera/config/json.h"
#include "tessera/inference/generate.h"

using namespace tessera;

namespace {

using Sequences = std::vector<std::vector<int64_t>>;

constexpr int64_t kContext = 12;

std::unique_ptr<Model> model(const std::string& changes = "{}") {
  RandomScope scope(3);
  Json json = Json::parse(R"({"type": "transformer", "width": 16, "depth": 2, "heads": 2,
                              "init_std": 0.4, "positions": "learned"})");
  json.merge_patch(Json::parse(changes));
  auto m = from_json<Choice<Model>>(json).build(DataInfo{.vocabulary = 9, .context = kContext});
  m->eval();
  return m;
}

// What follows each prompt, up to `last` where it comes.
Sequences texts(Model& m, const Sequences& prompts, const GenerateOptions& options,
                int64_t last = -1) {
  Sequences out(prompts.size());
  generate(dynamic_cast<LanguageModel&>(m), prompts, options, [&](size_t b, int64_t token) {
    out[b].push_back(token);
    return token != last;
  });
  return out;
}

Sequences alone(Model& m, const Sequences& prompts, GenerateOptions options, int64_t last = -1) {
  Sequences out;
  for (const auto& prompt : prompts) {
    out.push_back(texts(m, {prompt}, options, last)[0]);
    ++options.seed;
  }
  return out;
}

const Sequences kPrompts = {{1, 2, 3}, {4}, {5, 6, 7, 8, 0, 1, 2, 3, 4, 5, 6, 7, 8}, {1, 2, 3}};

}  // namespace

TEST_CASE("prompts of different lengths become in a batch what each becomes alone") {
  for (const char* changes :
       {"{}", R"({"positions": "rotary"})", R"({"positions": "alibi"})",
        R"({"positions": "sinusoidal"})", R"({"positions": "relative_bias"})",
        R"({"positions": "rotary", "attention": {"type": "dense", "kv_heads": 1}})",
        R"({"attention": {"type": "window", "window": 3}})"}) {
    CAPTURE(changes);
    const auto m = model(changes);
    GenerateOptions options{.tokens = 30, .seed = 5};
    const Sequences expected = alone(*m, kPrompts, options);
    CHECK(expected[0] != expected[3]);
    CHECK(texts(*m, kPrompts, options) == expected);
    options.page_size = 5;
    CHECK(texts(*m, kPrompts, options) == expected);
    options.use_cache = false;
    CHECK(texts(*m, kPrompts, options) == expected);
  }
}

TEST_CASE("a sequence that is over leaves the others as they are") {
  const auto m = model();
  for (const int64_t page_size : {0, 4}) {
    const GenerateOptions options{.tokens = 50, .seed = 2, .page_size = page_size};
    const Sequences batch = texts(*m, kPrompts, options, 3);
    CHECK(batch == alone(*m, kPrompts, options, 3));
  }
}

TEST_CASE("restrictions and penalties are those of each sequence") {
  const auto m = model();
  const GenerateOptions options{
      .tokens = 20,
      .sampling = {.temperature = 0.8, .top_k = 5, .min_p = 0.05, .repetition_penalty = 1.3}};
  CHECK(texts(*m, kPrompts, options) == alone(*m, kPrompts, options));
}

TEST_CASE("ids outside of the vocabulary and empty prompts are named") {
  const auto m = model();
  CHECK_THROWS_WITH_AS(texts(*m, {{1}, {9}}, {}), doctest::Contains("id 9"), Error);
  CHECK_THROWS_WITH_AS(texts(*m, {{1}, {}}, {}), doctest::Contains("empty"), Error);
  CHECK(texts(*m, {}, {}).empty());
}

TEST_CASE("times tell prompts from tokens that follow") {
  const auto m = model();
  const GenerateTimes t = generate(dynamic_cast<LanguageModel&>(*m), kPrompts, {.tokens = 10},
                                   [](size_t, int64_t) { return true; });
  CHECK(t.prompt_tokens == 20);
  CHECK(t.decoded_tokens == 4 * 9);
  CHECK(t.prefill_seconds > 0);
  CHECK(t.decode_seconds > 0);
}
