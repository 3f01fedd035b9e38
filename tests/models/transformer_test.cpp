// What the sheet of the GPT baseline must show.
#include "tessera/models/transformer.h"

#include <doctest/doctest.h>

#include <cmath>

#include "tessera/autograd/ops/cross_entropy.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/tape.h"
#include "tessera/config/fields.h"
#include "tessera/config/json.h"
#include "tessera/core/create.h"
#include "tessera/core/random.h"
#include "tessera/nn/check.h"
#include "tessera/tests/support.h"
#include "tessera/train/optimizer.h"

using namespace tessera;
using namespace tessera::test;

namespace {

const DataInfo kTiny{.vocabulary = 11, .context = 12};

std::unique_ptr<Model> build(const std::string& text, const DataInfo& info = kTiny) {
  RandomScope scope(1);
  return from_json<Choice<Model>>(Json::parse(text)).build(info);
}

const char* kGpt = R"({"type": "transformer", "width": 16, "depth": 2, "heads": 4})";
const char* kLlama = R"({"type": "transformer", "width": 16, "depth": 2, "heads": 4,
  "attention": {"type": "dense", "kv_heads": 2}, "feed_forward": {"type": "glu", "hidden": 24},
  "norm": "rms", "positions": "rotary", "bias": false, "tied": false})";

LanguageModel& lm(Model& model) {
  return dynamic_cast<LanguageModel&>(model);
}

Tensor ids(uint64_t salt, int64_t n) {
  return samples::integers({2, n}, 0, 11, salt);
}

}  // namespace

TEST_SUITE("gradient") {
  TEST_CASE("both variants have right gradients for every kind of parameter, tied table included") {
    for (const char* text : {kGpt, kLlama}) {
      auto model = build(text);
      const auto result = check_module(
          *model,
          [](Module& m, const TensorList& in) {
            return TensorList{cross_entropy(lm(static_cast<Model&>(m)).logits(in[0]), in[1])};
          },
          {ids(1, 5), ids(2, 5)}, {.max_entries = 25});
      CHECK_MESSAGE(result.ok, result.message);
    }
  }
}

TEST_CASE("logits do not see later tokens") {
  for (const char* text : {kGpt, kLlama}) {
    auto model = build(text);
    NoGrad off;
    const Tensor a = ids(1, 8);
    const Tensor b = concat({slice(a, 1, 0, 5), ids(7, 3)}, 1);
    const Tensor la = slice(lm(*model).logits(a), 1, 0, 5);
    const Tensor lb = slice(lm(*model).logits(b), 1, 0, 5);
    CHECK(worst(la, lb) == 0);
  }
}

TEST_CASE("decoding with a cache, token by token or in chunks, equals the whole forward pass") {
  for (const char* text : {kGpt, kLlama}) {
    auto model = build(text);
    NoGrad off;
    const Tensor tokens = ids(1, 10);
    const Tensor whole = lm(*model).logits(tokens);
    for (int64_t chunk : {1, 3, 10}) {
      std::vector<KvCache> caches = lm(*model).make_caches();
      TensorList parts;
      for (int64_t at = 0; at < 10; at += chunk) {
        parts.push_back(lm(*model).logits(slice(tokens, 1, at, std::min<int64_t>(10, at + chunk)),
                                          {.caches = &caches}));
      }
      CHECK(worst(concat(parts, 1), whole) < 1e-4);
    }
  }
}

TEST_CASE("kv_heads equal to heads is plain multi-head attention") {
  auto plain = build(kGpt);
  auto grouped = build(R"({"type": "transformer", "width": 16, "depth": 2, "heads": 4,
                          "attention": {"type": "dense", "kv_heads": 4}})");
  NoGrad off;
  CHECK(worst(lm(*plain).logits(ids(1, 6)), lm(*grouped).logits(ids(1, 6))) == 0);
}

TEST_CASE("the loss of a fresh model is ln V within 2 percent") {
  for (const char* text : {kGpt, kLlama}) {
    auto model = build(text, {.vocabulary = 65, .context = 64});
    NoGrad off;
    const double loss = cross_entropy(lm(*model).logits(samples::integers({4, 64}, 0, 65, 1)),
                                      samples::integers({4, 64}, 0, 65, 2))
                            .item();
    CHECK(loss == doctest::Approx(std::log(65.0)).epsilon(0.02));
  }
}

TEST_CASE("a model learns one batch by heart") {
  for (const char* text : {kGpt, kLlama}) {
    auto model = build(text);
    const auto parameters = parameters_of(*model);
    const auto optimizer = Choice<Optimizer>("adamw").build(parameters);
    const Tensor x = ids(1, 8);
    const Tensor y = ids(2, 8);
    double loss = 0;
    for (int step = 0; step < 400; ++step) {
      const Tensor value = cross_entropy(lm(*model).logits(x), y);
      loss = value.item();
      value.backward();
      optimizer->step(10);
      model->zero_grad();
    }
    CHECK(loss < 0.05);
  }
}

TEST_CASE("GPT-2 has 124,439,808 parameters") {
  auto model = build(R"({"type": "transformer", "width": 768, "depth": 12, "heads": 12,
                        "feed_forward": {"type": "mlp", "activation": "gelu_tanh"}})",
                     {.vocabulary = 50257, .context = 1024});
  CHECK(model->parameter_count() == 124439808);
}

TEST_CASE("recomputing blocks changes memory, not gradients") {
  auto plain = build(kGpt);
  std::string text = kGpt;
  text.insert(text.size() - 1, R"(, "checkpoint": true)");
  auto saving = build(text);
  for (auto* model : {plain.get(), saving.get()}) {
    cross_entropy(lm(*model).logits(ids(1, 6)), ids(2, 6)).backward();
  }
  const auto a = plain->parameters();
  const auto b = saving->parameters();
  for (size_t i = 0; i < a.size(); ++i) CHECK(worst(a[i].second.grad(), b[i].second.grad()) < 1e-7);
}

TEST_CASE("more tokens than the context are refused") {
  auto model = build(kGpt);
  CHECK_THROWS_WITH_AS(lm(*model).logits(samples::integers({1, 13}, 0, 11)),
                       doctest::Contains("exceed the context of 12"), Error);
}

TEST_CASE("a width that heads do not divide is refused with both numbers") {
  CHECK_THROWS_WITH_AS(build(R"({"type": "transformer", "width": 10, "heads": 4})"),
                       doctest::Contains("width 10 is not a multiple of 4 heads"), Error);
}

TEST_CASE("layers may have their own mixer and position-wise part, and later entries win") {
  auto model = build(R"({"type": "transformer", "width": 16, "depth": 3, "heads": 4,
    "attention": {"type": "window", "window": 2},
    "layers": [{"at": [0, -1], "attention": "dense"}, {"at": [2], "feed_forward": "glu"}]})");
  auto& t = dynamic_cast<Transformer&>(*model);
  CHECK(t.blocks[0]->attention->type_name() == "DenseAttentionLayer");
  CHECK(t.blocks[1]->attention->type_name() == "WindowAttention");
  CHECK(t.blocks[2]->attention->type_name() == "DenseAttentionLayer");
  CHECK(t.blocks[1]->feed_forward->type_name() == "Mlp");
  CHECK(t.blocks[2]->feed_forward->type_name() == "Glu");
  CHECK_THROWS_WITH_AS(build(R"({"type": "transformer", "depth": 2, "layers": [{"at": [2]}]})"),
                       doctest::Contains("model.layers: there is no layer 2 of 2"), Error);
}

TEST_CASE("post-norm blocks end with a norm of their own and the model adds none") {
  std::string text = kGpt;
  text.insert(text.size() - 1, R"(, "residual": "post")");
  auto model = build(text);
  for (const auto& [name, value] : model->parameters()) CHECK_FALSE(name.starts_with("norm."));
  NoGrad off;
  const Tensor h = lm(*model).hidden(ids(1, 6), {});
  const std::vector<float> values = h.to_vector<float>();
  for (size_t row = 0; row < values.size(); row += 16) {
    double sum = 0, square = 0;
    for (size_t i = 0; i < 16; ++i) {
      sum += values[row + i];
      square += values[row + i] * values[row + i];
    }
    CHECK(sum / 16 == doctest::Approx(0).epsilon(1e-4));
    CHECK(square / 16 == doctest::Approx(1).epsilon(1e-3));
  }
}
