// What the sheet of the ViT baseline must show.
#include "tessera/models/vit.h"

#include <doctest/doctest.h>

#include <cmath>

#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/indexing.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/tape.h"
#include "tessera/config/fields.h"
#include "tessera/config/json.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/kernels/fill.h"
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

DataInfo images(int64_t size, int64_t classes) {
  return {.channels = 3, .height = size, .width = size, .classes = classes};
}

ImageClassifier& vision(Model& model) {
  return dynamic_cast<ImageClassifier&>(model);
}

// The four 4 × 4 patches of an 8 × 8 image in another order.
Tensor permute_patches(const Tensor& x, const std::vector<int64_t>& order) {
  TensorList patches;
  for (int64_t p : order) {
    patches.push_back(slice(slice(x, 2, p / 2 * 4, p / 2 * 4 + 4), 3, p % 2 * 4, p % 2 * 4 + 4));
  }
  return concat({concat({patches[0], patches[1]}, 3), concat({patches[2], patches[3]}, 3)}, 2);
}

const char* kSmall = R"({"type": "vit", "patch": 4, "width": 8, "depth": 2, "heads": 2})";

}  // namespace

TEST_CASE("DeiT-Ti, S and B and the small model have exactly the published numbers of parameters") {
  auto count = [](int64_t width, int64_t heads) {
    return build(fmt::format(
                     R"({{"type": "vit", "patch": 16, "width": {}, "depth": 12, "heads": {}}})",
                     width, heads),
                 images(224, 1000))
        ->parameter_count();
  };
  CHECK(count(192, 3) == 5717416);
  CHECK(count(384, 6) == 22050664);
  CHECK(count(768, 12) == 86567656);
  CHECK(build(R"({"type": "vit", "patch": 4, "width": 48, "depth": 4, "heads": 3})", images(32, 10))
            ->parameter_count() == 119194);
}

TEST_CASE("the small ConViT has exactly the published number of parameters") {
  auto model = build(R"({"type": "vit", "patch": 4, "width": 48, "depth": 4, "heads": 4,
      "attention": "gpsa", "class_token_layer": 3,
      "layers": [{"at": [-1], "attention": {"type": "dense", "qkv_bias": false}}]})",
                     images(32, 10));
  CHECK(model->parameter_count() == 118630);
}

TEST_SUITE("gradient") {
  TEST_CASE("two blocks of width 8 on 4 patches have right gradients from pixels to head") {
    auto model = build(kSmall, images(8, 3));
    const auto result =
        check_module(*model,
                     [](Module& m, const TensorList& in) {
                       return TensorList{vision(static_cast<Model&>(m)).logits(in[0])};
                     },
                     {samples::normal({2, 3, 8, 8})}, {.max_entries = 25});
    CHECK_MESSAGE(result.ok, result.message);
  }
}

TEST_CASE("permuting patches together with their positions leaves the logits unchanged") {
  auto model = build(kSmall, images(8, 3));
  auto& vit = dynamic_cast<Vit&>(*model);
  NoGrad off;
  const std::vector<int64_t> order = {2, 0, 3, 1};
  const Tensor x = samples::normal({2, 3, 8, 8}).to(DType::f32);
  const Tensor before = vision(*model).logits(x);
  const Tensor moved = permute_patches(x, order);
  CHECK(worst(vision(*model).logits(moved), before) > 1e-5);
  std::vector<int64_t> rows = {0};
  for (int64_t p : order) rows.push_back(p + 1);
  kernels::copy(vit.positions, index_select(vit.positions, 1, from_values(rows, {5})));
  CHECK(worst(vision(*model).logits(moved), before) < 1e-6);
  kernels::fill(vit.positions, 0);
  CHECK(worst(vision(*model).logits(moved), vision(*model).logits(x)) < 1e-6);
}

TEST_CASE("a patch vector is ordered channel, row, column, as the convolution would see it") {
  RandomScope scope(2);
  PatchEmbedding embed(3, 4, 5);
  const Tensor x = randn({2, 3, 8, 8});
  const Tensor tokens = embed(x);
  CHECK(tokens.shape() == Shape{2, 4, 5});
  const auto w = embed.weight.to_vector<double>();
  const auto b = embed.bias.to_vector<double>();
  const auto pixel = x.to_vector<double>();
  double expected = b[1];  // output channel 1, patch 2 (second row, first column), image 1
  for (int64_t c = 0; c < 3; ++c) {
    for (int64_t r = 0; r < 4; ++r) {
      for (int64_t q = 0; q < 4; ++q) {
        expected += w[static_cast<size_t>(((1 * 3 + c) * 4 + r) * 4 + q)] *
                    pixel[static_cast<size_t>(((1 * 3 + c) * 8 + 4 + r) * 8 + q)];
      }
    }
  }
  CHECK(select(select(select(tokens, 0, 1), 0, 2), 0, 1).item() ==
        doctest::Approx(expected).epsilon(1e-5));
}

TEST_CASE("drop path is off in evaluation and its mean approaches the evaluation output") {
  auto model =
      build(R"({"type": "vit", "patch": 4, "width": 8, "depth": 1, "heads": 2, "drop_path": 0.5})",
            images(8, 3));
  auto plain =
      build(R"({"type": "vit", "patch": 4, "width": 8, "depth": 1, "heads": 2})", images(8, 3));
  NoGrad off;
  const Tensor x = samples::normal({1, 3, 8, 8}).to(DType::f32);
  model->eval();
  plain->train();
  CHECK(worst(vision(*model).logits(x), vision(*plain).logits(x)) == 0);
  DropPath drop(0.5);
  RandomScope scope(3);
  const Tensor ones_rows = ones({4000, 2});
  double mean = 0;
  for (double v : drop(ones_rows).to_vector<double>()) mean += v / 8000;
  CHECK(mean == doctest::Approx(1).epsilon(0.06));
}

TEST_CASE("the distilled variant averages two heads, and the mean pool sees patches only") {
  auto distilled =
      build(R"({"type": "vit", "patch": 4, "width": 8, "depth": 2, "heads": 2, "distilled": true})",
            images(8, 3));
  NoGrad off;
  const Tensor x = samples::normal({2, 3, 8, 8}).to(DType::f32);
  auto& vit = dynamic_cast<Vit&>(*distilled);
  const auto [a, b] = vit.both_logits(x);
  CHECK(worst(vision(*distilled).logits(x), (a + b) * 0.5) < 1e-7);
  CHECK(vit.positions.shape() == Shape{1, 6, 8});
  auto mean =
      build(R"({"type": "vit", "patch": 4, "width": 8, "depth": 2, "heads": 2, "pool": "mean"})",
            images(8, 3));
  CHECK(vision(*mean).logits(x).shape() == Shape{2, 3});
}

const char* kConVit = R"({"type": "vit", "patch": 4, "width": 8, "depth": 2, "heads": 4,
    "attention": "gpsa", "class_token_layer": 1, "layers": [{"at": [1], "attention": "dense"}]})";

TEST_SUITE("gradient") {
  TEST_CASE("a class token that joins late has right gradients, and positions have no row for it") {
    auto model = build(kConVit, images(8, 3));
    auto& vit = dynamic_cast<Vit&>(*model);
    CHECK(vit.positions.shape() == Shape{1, 4, 8});
    CHECK(vit.class_token.shape() == Shape{1, 1, 8});
    const auto result =
        check_module(*model,
                     [](Module& m, const TensorList& in) {
                       return TensorList{vision(static_cast<Model&>(m)).logits(in[0])};
                     },
                     {samples::normal({2, 3, 8, 8})}, {.max_entries = 25});
    CHECK_MESSAGE(result.ok, result.message);
  }
}

TEST_CASE("without a class token the mean of the patches is classified") {
  auto model = build(R"({"type": "vit", "patch": 4, "width": 8, "depth": 2, "heads": 4,
      "attention": "gpsa", "class_token_layer": 2, "pool": "mean"})",
                     images(8, 3));
  CHECK_FALSE(dynamic_cast<Vit&>(*model).class_token.defined());
  CHECK(vision(*model).logits(samples::normal({2, 3, 8, 8}).to(DType::f32)).shape() == Shape{2, 3});
  CHECK_THROWS_WITH_AS(
      build(R"({"type": "vit", "depth": 2, "class_token_layer": 2})", images(8, 3)),
      doctest::Contains("model.class_token_layer"), Error);
  CHECK_THROWS_WITH_AS(build(R"({"type": "vit", "attention": "gpsa"})", images(8, 3)),
                       doctest::Contains("model.class_token_layer"), Error);
}

TEST_CASE("a patch that does not divide the image is refused with the sizes") {
  CHECK_THROWS_WITH_AS(build(R"({"type": "vit", "patch": 5})", images(8, 3)),
                       doctest::Contains("patch 5 does not divide an image of 8 x 8"), Error);
}
