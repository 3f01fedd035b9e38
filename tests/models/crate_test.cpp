// What the sheet of CRATE must show of its models.
#include "tessera/models/crate_mae.h"

#include <doctest/doctest.h>

#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/comparison.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/tape.h"
#include "tessera/config/fields.h"
#include "tessera/config/json.h"
#include "tessera/core/create.h"
#include "tessera/core/random.h"
#include "tessera/nn/check.h"
#include "tessera/tests/support.h"

using namespace tessera;
using namespace tessera::test;

namespace {

std::unique_ptr<Model> build(const std::string& text, const DataInfo& info) {
  RandomScope scope(1);
  return from_json<Choice<Model>>(Json::parse(text)).build(info);
}

const DataInfo kText{.vocabulary = 11, .context = 12};
const DataInfo kImages{.channels = 3, .height = 8, .width = 8, .classes = 3};
const char* kCrateGpt = R"({"type": "transformer", "width": 16, "depth": 3, "heads": 4,
    "attention": "mssa", "feed_forward": "ista"})";

Tensor first_patches_hidden(int64_t batch, int64_t count) {
  return lt(expand(arange(0, static_cast<double>(count)), {batch, count}), 3);
}

}  // namespace

TEST_CASE("CRATE-GPT: a token changes no logit before it, bit for bit") {
  auto model = build(kCrateGpt, kText);
  auto& lm = dynamic_cast<LanguageModel&>(*model);
  NoGrad off;
  const Tensor a = samples::integers({2, 8}, 0, 11, 1);
  const Tensor b = concat({slice(a, 1, 0, 5), samples::integers({2, 3}, 0, 11, 7)}, 1);
  CHECK(worst(slice(lm.logits(a), 1, 0, 5), slice(lm.logits(b), 1, 0, 5)) == 0);
}

TEST_CASE("CRATE-GPT: decoding with one cached tensor a layer equals the whole forward pass") {
  auto model = build(kCrateGpt, kText);
  auto& lm = dynamic_cast<LanguageModel&>(*model);
  NoGrad off;
  const Tensor tokens = samples::integers({2, 10}, 0, 11, 1);
  std::vector<KvCache> caches = lm.make_caches();
  TensorList parts;
  for (int64_t at = 0; at < 10; ++at) {
    parts.push_back(lm.logits(slice(tokens, 1, at, at + 1), {.caches = &caches}));
  }
  CHECK(worst(concat(parts, 1), lm.logits(tokens)) < 1e-5);
  CHECK(caches.size() == 3);
  for (const KvCache& cache : caches) CHECK(cache.bytes() == 2 * 10 * 16 * 4);
}

TEST_CASE("a CRATE classifier has at most 40 percent of the parameters of a ViT of its sizes") {
  const DataInfo info{.channels = 3, .height = 224, .width = 224, .classes = 10};
  const auto count = [&](const char* parts) {
    return static_cast<double>(
        build(fmt::format(
                  R"({{"type": "vit", "patch": 16, "width": 192, "depth": 12, "heads": 3 {}}})",
                  parts),
              info)
            ->parameter_count());
  };
  CHECK(count(R"(, "attention": "mssa", "feed_forward": "ista", "patch_norm": true)") <
        0.4 * count(""));
}

TEST_SUITE("gradient") {
  TEST_CASE("a CRATE classifier and CRATE-α have right gradients") {
    for (const char* part : {"ista", "crate_alpha"}) {
      auto model =
          build(fmt::format(R"({{"type": "vit", "patch": 4, "width": 8, "depth": 2, "heads": 2,
              "attention": "mssa", "feed_forward": "{}", "patch_norm": true, "token_std": 1}})",
                            part),
                kImages);
      const auto run = [](Module& m, const TensorList& in) {
        return TensorList{dynamic_cast<ImageClassifier&>(m).logits(in[0])};
      };
      const auto result =
          check_module(*model, run, {samples::normal({2, 3, 8, 8})}, {.max_entries = 20});
      CHECK_MESSAGE(result.ok, result.message);
    }
  }

  TEST_CASE("a CRATE-MAE decoder layer has right gradients") {
    RandomScope scope(1);
    CrateDecoderLayer layer(1e-5, Geometry{.width = 8, .heads = 2, .context = 5});
    const auto run = [](Module& m, const TensorList& in) {
      return TensorList{static_cast<CrateDecoderLayer&>(m)(in[0], {})};
    };
    const auto result = check_module(layer, run, {samples::normal({2, 5, 8})});
    CHECK_MESSAGE(result.ok, result.message);
  }
}

TEST_CASE("a CRATE-MAE decoder layer subtracts what its attention gives") {
  RandomScope scope(1);
  CrateDecoderLayer layer(1e-5, Geometry{.width = 8, .heads = 2, .context = 5});
  NoGrad off;
  const Tensor y = randn({2, 5, 8});
  const Tensor half = layer.dictionary(layer.norm1(y));
  CHECK(worst(layer(y, {}), half - layer.attention(layer.norm2(half), {})) == 0);
}

TEST_CASE("CRATE-MAE does not see the pixels of hidden patches") {
  auto model =
      build(R"({"type": "crate_mae", "patch": 2, "width": 16, "depth": 2, "heads": 2})", kImages);
  auto& mae = dynamic_cast<CrateMae&>(*model);
  NoGrad off;
  RandomScope scope(2);
  const Tensor x = randn({2, 3, 8, 8}), hidden = first_patches_hidden(2, 16);
  const Tensor changed =
      from_patches(where(unsqueeze(hidden, 2), ones({1, 1, 1}), to_patches(x, 2)), {4, 4}, 3);
  CHECK(worst(x, changed) > 0.1);
  CHECK(mae.reconstruct(x, hidden, {}).shape() == Shape{2, 16, 12});
  CHECK(worst(mae.reconstruct(x, hidden, {}), mae.reconstruct(changed, hidden, {})) == 0);
  const Tensor none = lt(zeros({2, 16}), 0);
  CHECK(worst(mae.reconstruct(x, none, {}), mae.reconstruct(changed, none, {})) > 1e-4);
}

TEST_CASE("images become patches and come back") {
  RandomScope scope(2);
  const Tensor x = randn({2, 3, 6, 4});
  CHECK(worst(from_patches(to_patches(x, 2), {3, 2}, 3), x) == 0);
}

TEST_CASE("positions of a grid are sines and cosines of the column, then of the row") {
  const auto p = grid_sines(2, 3, 8).to_vector<double>();
  const size_t at = 5 * 8;  // row 1, column 2
  CHECK(p[at] == doctest::Approx(std::sin(2.0)));
  CHECK(p[at + 1] == doctest::Approx(std::sin(0.02)));
  CHECK(p[at + 2] == doctest::Approx(std::cos(2.0)));
  CHECK(p[at + 4] == doctest::Approx(std::sin(1.0)));
  CHECK(p[at + 7] == doctest::Approx(std::cos(0.01)));
}
