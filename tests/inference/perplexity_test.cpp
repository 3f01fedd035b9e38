#include "tessera/inference/perplexity.h"

#include <doctest/doctest.h>

#include <cmath>
#include <fstream>

#include "tessera/autograd/ops/softmax.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/config/fields.h"
#include "tessera/config/json.h"
#include "tessera/core/create.h"
#include "tessera/data/token_reader.h"
#include "tessera/tests/core/temporary_folder.h"

using namespace tessera;
using tessera_tests::TemporaryFolder;

namespace {

constexpr int64_t kContext = 8;

std::unique_ptr<Model> model() {
  RandomScope scope(3);
  auto m = from_json<Choice<Model>>(
               Json::parse(R"({"type": "transformer", "width": 16, "depth": 1, "heads": 2,
                               "init_std": 0.3})"))
               .build(DataInfo{.vocabulary = 256, .context = kContext});
  m->eval();
  return m;
}

Perplexity measured(LanguageModel& m, const std::string& text, const PerplexityOptions& options,
                    size_t piece = 1 << 20) {
  TemporaryFolder folder;
  std::ofstream(folder / "text", std::ios::binary) << text;
  const ByteTokenizer bytes;
  TokenReader reader(folder / "text", bytes, piece);
  return perplexity(m, bytes, reader, options);
}

// Token by token: each from the window that scores it first.
double nats(LanguageModel& m, const std::string& text, int64_t context, int64_t stride) {
  double total = 0;
  const auto size = static_cast<int64_t>(text.size());
  for (int64_t t = 1; t < size; ++t) {
    const int64_t begin = t <= context ? 0 : (t - context + stride - 1) / stride * stride;
    std::vector<int64_t> ids;
    for (int64_t i = begin; i < t; ++i) {
      ids.push_back(static_cast<unsigned char>(text[static_cast<size_t>(i)]));
    }
    const Tensor logits = m.logits(from_values(ids, {1, t - begin}));
    const auto p = log_softmax(select(logits, 1, t - begin - 1), -1).to_vector<double>();
    total -= p[static_cast<unsigned char>(text[static_cast<size_t>(t)])];
  }
  return total;
}

}  // namespace

TEST_CASE("every token is predicted once, from its window") {
  const auto m = model();
  auto& lm = dynamic_cast<LanguageModel&>(*m);
  const std::string all = "the quick brown fox jumps over the lazy dog, again and again!";
  for (const size_t size : {size_t{2}, size_t{8}, size_t{9}, size_t{10}, size_t{33}, all.size()}) {
    const std::string text = all.substr(0, size);
    for (const auto& sizes : {std::pair{8, 4}, {8, 8}, {8, 1}, {5, 3}, {1, 1}}) {
      const auto [context, stride] = sizes;
      for (const int64_t batch : {1, 3}) {
        CAPTURE(size);
        INFO("context " << sizes.first << ", stride " << sizes.second);
        const Perplexity p = measured(
            lm, text, {.context = context, .stride = stride, .batch = batch}, batch == 1 ? 7 : 99);
        CHECK(p.tokens == static_cast<int64_t>(size) - 1);
        CHECK(p.bytes == p.tokens);
        CHECK(p.nats == doctest::Approx(nats(lm, text, context, stride)).epsilon(1e-5));
        CHECK(p.per_token() == doctest::Approx(std::exp(p.nats / static_cast<double>(p.tokens))));
      }
    }
  }
}

TEST_CASE("a text without anything to predict is refused, and so are windows that do not fit") {
  const auto m = model();
  auto& lm = dynamic_cast<LanguageModel&>(*m);
  CHECK_THROWS_WITH_AS(measured(lm, "", {}), doctest::Contains("takes two"), Error);
  CHECK_THROWS_WITH_AS(measured(lm, "a", {}), doctest::Contains("takes two"), Error);
  CHECK_THROWS_WITH_AS(measured(lm, "ab", {.context = 9}), doctest::Contains("at most 8"), Error);
  CHECK_THROWS_WITH_AS(measured(lm, "ab", {.stride = 9}), doctest::Contains("stride of 9"), Error);
}
