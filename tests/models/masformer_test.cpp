// What the sheet of MASFormer must show.
#include "tessera/attention/masformer.h"

#include <doctest/doctest.h>

#include "tessera/attention/engines/dense.h"
#include "tessera/attention/kv_cache.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/matmul.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/config/json.h"
#include "tessera/models/model.h"
#include "tessera/nn/check.h"
#include "tessera/tests/support.h"

using namespace tessera;
using namespace tessera::test;

namespace {

constexpr const char* kSpans[] = {"full",     "block:4",      "block:3",     "window:3",
                                  "window:0", "block_prev:3", "block_prev:4"};

std::unique_ptr<Model> decoder(const Json& attention, int64_t context, int64_t depth = 3,
                               const char* positions = "learned") {
  RandomScope scope(1);
  const Json config = {{"type", "transformer"},  {"width", 16},
                       {"depth", depth},         {"heads", 4},
                       {"attention", attention}, {"positions", positions}};
  auto model =
      from_json<Choice<Model>>(config).build(DataInfo{.vocabulary = 11, .context = context});
  model->eval();
  return model;
}

Json masformer(const std::vector<std::string>& spans) {
  return {{"type", "masformer"}, {"spans", spans}};
}

LanguageModel& lm(const std::unique_ptr<Model>& model) {
  return dynamic_cast<LanguageModel&>(*model);
}

std::unique_ptr<Attention> layer(const std::string& span) {
  RandomScope scope(3);
  auto made =
      from_json<Choice<Attention>>(masformer({span}))
          .build(Geometry{
              .width = 8, .heads = 2, .context = 16, .init_std = 0.4, .output_init_std = 0.4});
  made->eval();
  return made;
}

Tensor run(Attention& m, const Tensor& x, bool causal = true) {
  AttentionContext context{.causal = causal};
  context.positions = arange(0, static_cast<double>(x.size(1)));
  return m(x, context);
}

// What a query sees, entry by entry, from the definition.
bool sees(const Span& s, int64_t i, int64_t j, bool causal) {
  if (causal && j > i) return false;
  switch (s.kind) {
    case Span::Kind::block:
      return i / s.size == j / s.size;
    case Span::Kind::window:
      return std::abs(i - j) <= s.size;
    case Span::Kind::block_prev:
      return std::abs(i / s.size - j / s.size) <= 1;
    default:
      return true;
  }
}

// x with other numbers in tokens [first, last).
Tensor changed(const Tensor& x, int64_t first, int64_t last) {
  return concat({slice(x, 1, 0, first), slice(x, 1, first, last) * -2 + 1, slice(x, 1, last)}, 1);
}

}  // namespace

TEST_CASE(
    "masformer with every layer full is the dense decoder to the bit, and so are spans as "
    "long as the text") {
  const int64_t n = 12;
  const auto dense = decoder("dense", n);
  const Tensor tokens = samples::integers({2, n}, 0, 11, 1);
  NoGrad off;
  const Tensor want = lm(dense).logits(tokens);
  for (const char* span : {"full", "block:12", "block:40", "window:11", "block_prev:6"}) {
    CAPTURE(span);
    const auto mixed = decoder(masformer({span, span, span}), n);
    CHECK(same_bits(lm(mixed).logits(tokens), want));
  }
}

TEST_CASE(
    "every span equals dense attention under its mask, in outputs and gradients, for lengths "
    "that blocks do not divide") {
  RandomScope scope(5);
  for (const char* text : kSpans) {
    for (const bool causal : {true, false}) {
      for (const int64_t n : {1, 8, 11}) {
        CAPTURE(text);
        CAPTURE(n);
        const Span span = span_from_text("masformer", text);
        auto m = layer(text);
        m->to(DType::f64);
        const Tensor x = randn({2, n, 8}, DType::f64).set_requires_grad();
        const Tensor w = randn({2, n, 8}, DType::f64);
        // The same weights around dense attention in which hidden scores are −∞.
        std::vector<uint8_t> hidden;
        for (int64_t i = 0; i < n; ++i) {
          for (int64_t j = 0; j < n; ++j) hidden.push_back(sees(span, i, j, causal) ? 0 : 1);
        }
        const Tensor mask = from_values(hidden, {1, 1, n, n}).to(DType::boolean);
        auto& self = dynamic_cast<SelfAttention&>(*m);
        const auto heads = [&](const Tensor& t) {
          return transpose(reshape(t, {2, n, 2, 4}), 1, 2);
        };
        const TensorList parts = split(self.qkv(x), {8, 8, 8}, -1);
        const Tensor scores = matmul(heads(parts[0]), transpose(heads(parts[1]), 2, 3)) * 0.5;
        const Tensor o = attention_of_scores(scores, mask, heads(parts[2])).output;
        const Tensor want = self.out(reshape(transpose(o, 1, 2), {2, n, 8}));
        const Tensor got = run(*m, x, causal);
        CHECK(worst(got, want) < 1e-12);
        TensorList leaves = {x};
        for (const auto& [name, p] : m->parameters()) leaves.push_back(p);
        const TensorList a = grad({got}, leaves, {w}), b = grad({want}, leaves, {w});
        for (size_t i = 0; i < leaves.size(); ++i) CHECK(worst(a[i], b[i]) < 1e-11);
      }
    }
  }
}

TEST_CASE("block attention keeps to the lengths of rows") {
  auto m = layer("block:4");
  RandomScope scope(2);
  const Tensor x = randn({2, 11, 8});
  NoGrad off;
  AttentionContext context;
  context.positions = arange(0, 11);
  context.lengths = from_values(std::vector<int32_t>{6, 10}, {2});
  const Tensor before = (*m)(x, context), after = (*m)(changed(x, 6, 8), context);
  CHECK(worst(slice(slice(before, 0, 0, 1), 1, 0, 6), slice(slice(after, 0, 0, 1), 1, 0, 6)) == 0);
  CHECK(worst(slice(slice(before, 0, 1, 2), 1, 4, 6), slice(slice(after, 0, 1, 2), 1, 4, 6)) >
        1e-3);
  CHECK(worst(slice(slice(before, 0, 1, 2), 1, 8, 11), slice(slice(after, 0, 1, 2), 1, 8, 11)) ==
        0);
}

TEST_SUITE("gradient") {
  TEST_CASE("every span has right gradients in the input and all weights") {
    for (const char* span : kSpans) {
      CAPTURE(span);
      auto m = layer(span);
      const auto result =
          check_module(*m,
                       [](Module& module, const TensorList& in) {
                         return TensorList{run(static_cast<Attention&>(module), in[0])};
                       },
                       {samples::normal({2, 7, 8})}, {.max_entries = 20});
      CHECK_MESSAGE(result.ok, result.message);
    }
  }
}

TEST_CASE("spans count exactly the score entries of their formulas") {
  RandomScope scope(2);
  NoGrad off;
  for (const char* text : kSpans) {
    for (const int64_t n : {1, 3, 8, 13}) {
      CAPTURE(text);
      CAPTURE(n);
      const Span span = span_from_text("masformer", text);
      int64_t visible = 0;
      for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < n; ++j) visible += sees(span, i, j, true) ? 1 : 0;
        if (span.kind != Span::Kind::full) CHECK(sees(span, i, span.first_key(i), true));
        CHECK((span.first_key(i) == 0 || !sees(span, i, span.first_key(i) - 1, true)));
      }
      CHECK(span.entries(n) == visible);
      auto m = layer(text);
      const int64_t before = score_entries();
      run(*m, randn({2, n, 8}));
      CHECK(score_entries() - before == 2 * 2 * visible);
    }
  }
}

TEST_CASE(
    "four full layers of 24 and blocks of 1024 need 27 % of the score entries of dense "
    "attention at 8192 tokens") {
  const Masformer::Config config{{}, 4, "bottom", "block:1024", {}, {}};
  int64_t mixed = 0;
  for (int64_t i = 0; i < 24; ++i) mixed += config.span(i, 24).entries(8192);
  const double share = static_cast<double>(mixed) / static_cast<double>(24 * Span{}.entries(8192));
  CHECK(share == doctest::Approx(0.27).epsilon(0.01));
  CHECK(span_from_text("masformer", "block:1024").entries(8192) == 8192 * 1025 / 2);
  CHECK(span_from_text("masformer", "window:64").entries(8192) == 8192 * 65 - 64 * 65 / 2);
}

TEST_CASE("full layers stand at the bottom, at the top, or spread") {
  const auto full = [](const char* placement, int64_t layers, int64_t depth) {
    const Masformer::Config config{{}, layers, placement, "window:8", {}, {}};
    std::vector<int64_t> at;
    for (int64_t i = 0; i < depth; ++i) {
      if (config.span(i, depth).kind == Span::Kind::full) at.push_back(i);
    }
    return at;
  };
  CHECK(full("bottom", 2, 6) == std::vector<int64_t>{0, 1});
  CHECK(full("top", 2, 6) == std::vector<int64_t>{4, 5});
  CHECK(full("interleave", 2, 6) == std::vector<int64_t>{1, 4});
  CHECK(full("interleave", 6, 6).size() == 6);
  CHECK(full("bottom", 0, 6).empty());
}

TEST_CASE("no span looks ahead, and in a model of blocks an edit stays inside its block") {
  const int64_t n = 11;
  const Tensor tokens = samples::integers({1, n}, 0, 11, 1);
  NoGrad off;
  for (const char* span : kSpans) {
    const auto model = decoder(masformer({span, span}), n, 2);
    const Tensor before = lm(model).logits(tokens);
    for (int64_t t = 0; t < n; ++t) {
      CAPTURE(span);
      CAPTURE(t);
      std::vector<int64_t> edited = tokens.to_vector<int64_t>();
      int64_t& token = edited[static_cast<size_t>(t)];
      token = (token + 5) % 11;
      const Tensor after = lm(model).logits(from_values(edited, {1, n}));
      CHECK(worst(slice(before, 1, 0, t), slice(after, 1, 0, t)) == 0);
      CHECK(worst(slice(before, 1, t, t + 1), slice(after, 1, t, t + 1)) > 1e-4);
      const Span s = span_from_text("masformer", span);
      if (s.kind != Span::Kind::block) continue;
      const int64_t end = std::min(n, (t / s.size + 1) * s.size);
      CHECK(worst(slice(before, 1, end), slice(after, 1, end)) == 0);
      CHECK(worst(slice(before, 1, end - 1, end), slice(after, 1, end - 1, end)) > 1e-4);
    }
  }
}

TEST_CASE(
    "decoding with a cache per layer equals the whole pass, and each cache is as large as its "
    "span says") {
  const int64_t n = 14;
  const Tensor tokens = samples::integers({2, n}, 0, 11, 1);
  NoGrad off;
  for (const char* positions : {"learned", "rotary", "alibi"}) {
    const auto model =
        decoder(masformer({"full", "block:4", "window:3", "block_prev:3"}), n, 4, positions);
    const Tensor whole = lm(model).logits(tokens);
    for (const auto& chunks : std::vector<std::vector<int64_t>>{std::vector<int64_t>(14, 1),
                                                                {5, 1, 1, 1, 1, 1, 1, 1, 1, 1},
                                                                {14},
                                                                {3, 5, 1, 5},
                                                                {13, 1}}) {
      auto caches = lm(model).make_caches();
      TensorList parts;
      int64_t at = 0;
      for (const int64_t count : chunks) {
        parts.push_back(lm(model).logits(slice(tokens, 1, at, at + count), {.caches = &caches}));
        at += count;
        CHECK(caches[0].length() == at);
        CHECK(caches[1].length() == (at - 1) % 4 + 1);
        CHECK(caches[2].length() == std::min<int64_t>(at, 4));
        CHECK(caches[3].length() == (at - 1) % 3 + 1 + (at > 3 ? 3 : 0));
        for (const KvCache& cache : caches) {
          CHECK(cache.seen() == at);
          CHECK(cache.bytes() ==
                cache.length() * 2 * 2 * 16 * 4);  // sequences, k and v, width, f32
        }
      }
      CHECK(worst(concat(parts, 1), whole) < 1e-5);
      CHECK(caches[1].reserved_bytes() == 4 * 2 * 2 * 16 * 4);
      CHECK(caches[2].reserved_bytes() == 4 * 2 * 2 * 16 * 4);
      CHECK(caches[3].reserved_bytes() == 6 * 2 * 2 * 16 * 4);
    }
  }
}

TEST_CASE("sequences of different lengths go on together as each would alone") {
  const int64_t n = 14;
  const Tensor tokens = samples::integers({2, n}, 0, 11, 1);
  NoGrad off;
  const auto model = decoder(masformer({"full", "block:4", "window:3", "block_prev:3"}), n, 4);
  const Tensor whole = lm(model).logits(tokens);
  auto caches = lm(model).make_caches();
  const std::vector<int32_t> lengths = {4, 9};
  ForwardContext context;
  context.lengths = from_values(lengths, {2});
  context.caches = &caches;
  const Tensor first = lm(model).logits(slice(tokens, 1, 0, 9), context);
  const auto row = [](const Tensor& x, int64_t b, int64_t t) {
    return slice(slice(x, 0, b, b + 1), 1, t, t + 1);
  };
  CHECK(worst(row(first, 0, 3), row(whole, 0, 3)) < 1e-5);
  CHECK(worst(row(first, 1, 8), row(whole, 1, 8)) < 1e-5);
  for (int64_t t = 0; t < 5; ++t) {
    const Tensor next = concat({row(tokens, 0, 4 + t), row(tokens, 1, 9 + t)}, 0);
    const Tensor logits = lm(model).logits(next, {.caches = &caches});
    CHECK(worst(row(logits, 0, 0), row(whole, 0, 4 + t)) < 1e-5);
    CHECK(worst(row(logits, 1, 0), row(whole, 1, 9 + t)) < 1e-5);
  }
}

TEST_CASE("every choice of spans has the same parameters") {
  const auto names = [](const std::unique_ptr<Model>& model) {
    std::vector<std::pair<std::string, Shape>> list;
    for (const auto& [name, value] : model->parameters()) list.emplace_back(name, value.shape());
    return list;
  };
  const auto want = names(decoder("dense", 12));
  CHECK(names(decoder(masformer({"full", "block:4", "window:3"}), 12)) == want);
  CHECK(names(decoder(masformer({"block_prev:2", "full", "full"}), 12)) == want);
}

TEST_CASE("spans that make no sense are refused with what to write instead") {
  for (const char* text : {"blok:4", "block", "block:", "block:x", "full:3", ""}) {
    CHECK_THROWS_WITH_AS(span_from_text("masformer", text), doctest::Contains("use full, block:B"),
                         Error);
  }
  CHECK_THROWS_WITH_AS(span_from_text("masformer", "block:0"), doctest::Contains("between 1 and"),
                       Error);
  CHECK_THROWS_WITH_AS(decoder(masformer({"full"}), 12),
                       doctest::Contains("spans lists 1 layers, the model has 3"), Error);
  CHECK_THROWS_WITH_AS(decoder(Json{{"type", "masformer"}, {"full_layers", 4}}, 12),
                       doctest::Contains("full_layers is 4, the model has 3"), Error);
}
