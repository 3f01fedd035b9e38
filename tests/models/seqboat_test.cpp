// What the sheet of sparse modular activation must show.
#include "tessera/models/seqboat.h"

#include <doctest/doctest.h>

#include <cmath>

#include "tessera/autograd/ops/activation.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/comparison.h"
#include "tessera/autograd/ops/cross_entropy.h"
#include "tessera/autograd/ops/elementwise.h"
#include "tessera/autograd/ops/indexing.h"
#include "tessera/autograd/ops/matmul.h"
#include "tessera/autograd/ops/softmax.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/config/json.h"
#include "tessera/nn/check.h"
#include "tessera/tests/support.h"

using namespace tessera;
using namespace tessera::test;

namespace {

constexpr int64_t kWidth = 8, kTokens = 14;

// Pushes the choice to one side: far enough, every token (or none) is active.
void push(SeqBoat& unit, double by) {
  auto values = unit.choice.bias.to_vector<double>();
  if (unit.log_temperature.defined()) values[1] += by;
  unit.choice.bias = from_values(values, unit.choice.bias.shape()).set_requires_grad();
}

SeqBoat make(const std::string& extra, bool both = false, int64_t context = kTokens) {
  RandomScope scope(5);
  const std::string text = R"({"query_width": 4, "hidden": 6, "ema": 3, "window": 3)" + extra + "}";
  SeqBoat unit(from_json<SeqBoat::Config>(Json::parse(text)),
               {.width = kWidth, .context = context, .init_std = 0.6, .output_init_std = 0.6},
               both);
  for (Tensor* x : {&unit.gain, &unit.distance_bias}) {
    if (x->defined()) *x = (randn(x->shape()) * 0.7).set_requires_grad();
  }
  unit.to(DType::f64);
  unit.eval();
  push(unit, -1.5);
  return unit;
}

AttentionContext context(int64_t tokens = kTokens, bool causal = true) {
  AttentionContext c{.causal = causal};
  c.positions = arange(0, static_cast<double>(tokens));
  return c;
}

Tensor input(int64_t tokens = kTokens, uint64_t salt = 0) {
  return samples::normal({2, tokens, kWidth}, salt);
}

// The active tokens of every row.
std::vector<std::vector<int64_t>> active_tokens(SeqBoat& unit, const Tensor& x,
                                                const AttentionContext& c) {
  std::vector<std::vector<int64_t>> rows;
  const ProbeScope scope(unit, [&](const std::string& path, const Tensor& value) {
    if (path != "active") return;
    const auto flags = value.to(DType::i64).to_vector<int64_t>();
    rows.assign(static_cast<size_t>(value.size(0)), {});
    for (size_t i = 0; i < flags.size(); ++i) {
      const auto n = static_cast<size_t>(value.size(1));
      if (flags[i] != 0) rows[i / n].push_back(static_cast<int64_t>(i % n));
    }
  });
  NoGrad off;
  unit(x, c);
  return rows;
}

struct Case {
  std::string extra;
  bool both = false;
};

// The same from lists on the host and whole matrices of scores, as the paper's pictures have it.
Tensor by_lists(SeqBoat& m, const Tensor& x, const Case& how, int64_t window = 3) {
  const bool original = how.extra.find("original") != std::string::npos;
  const bool relu2 = how.extra.find("relu2") != std::string::npos;
  const auto lists = active_tokens(m, x, context(x.size(1), !how.both));
  const Tensor y = silu(m.average(x)), mixed = m.choice(y);
  TensorList rows;
  for (size_t b = 0; b < lists.size(); ++b) {
    const auto& list = lists[b];
    const auto n = static_cast<int64_t>(list.size());
    const Tensor row = select(mixed, 0, static_cast<int64_t>(b));
    const Tensor hx = slice(row, 1, 2);
    if (n == 0) {
      rows.push_back(hx);
      continue;
    }
    const Tensor ids = from_values(list, {n});
    const Tensor packed = index_select(select(y, 0, static_cast<int64_t>(b)), 0, ids);
    const TensorList parts = split(silu(m.unit(packed)), {4, 6, 6}, -1);
    const Tensor q = parts[0] * select(m.gain, 0, 0) + select(m.shift, 0, 0);
    const Tensor k = parts[0] * select(m.gain, 0, 1) + select(m.shift, 0, 1);
    std::vector<int64_t> entry;
    std::vector<double> hidden;
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        const int64_t apart =
            original ? list[static_cast<size_t>(j)] - list[static_cast<size_t>(i)] : j - i;
        const int64_t reach = m.distance_bias.size(1) / 2;
        entry.push_back(std::clamp<int64_t>(apart, -reach, reach) + reach);
        hidden.push_back(std::abs(j - i) > window || (!how.both && j > i) ? 1 : 0);
      }
    }
    const Tensor mask = from_values(hidden, {n, n}).to(DType::boolean);
    const Tensor bias = reshape(
        index_select(reshape(m.distance_bias, {-1}), 0, from_values(entry, {n * n})), {n, n});
    const double scale = relu2 ? 1.0 / static_cast<double>(how.both ? 2 * window : window) : 0.5;
    const Tensor s = matmul(q, transpose(k, 0, 1)) * scale + bias;
    const Tensor a = relu2 ? masked_fill(relu_squared(s), mask, 0)
                           : softmax(masked_fill(s, mask, -INFINITY), -1);
    const Tensor pi = softmax(slice(row, 1, 0, 2) / exp(m.log_temperature), -1);
    const Tensor h = m.out(matmul(a, parts[2]) * parts[1]) * index_select(slice(pi, 1, 1), 0, ids);
    rows.push_back(index_add(hx, 0, ids, h));
  }
  return stack(rows, 0);
}

std::vector<Case> cases() {
  std::vector<Case> list;
  for (const bool both : {false, true}) {
    for (const char* kernel : {"softmax", "relu2"}) {
      for (const char* bias : {"packed", "original"}) {
        list.push_back({fmt::format(R"(, "kernel": "{}", "bias": "{}")", kernel, bias), both});
      }
    }
  }
  list.push_back({R"(, "bias": "original", "max_positions": 3)", true});
  return list;
}

TensorList gradients_of(SeqBoat& unit, const Tensor& y) {
  TensorList wanted;
  for (const auto& [name, value] : unit.parameters()) wanted.push_back(value);
  return grad({sum(y * cotangent(y, 1, DType::f64))}, wanted);
}

}  // namespace

TEST_CASE("seqboat on packed rows is attention over lists of active tokens, gradients included") {
  for (const Case& c : cases()) {
    CAPTURE(c.extra);
    CAPTURE(c.both);
    SeqBoat unit = make(c.extra, c.both);
    const auto lists = active_tokens(unit, input(), context(kTokens, !c.both));
    const size_t active = lists[0].size() + lists[1].size();
    REQUIRE((active >= 4 && active <= 2 * kTokens - 4));
    const Tensor fast = unit(input(), context(kTokens, !c.both));
    const Tensor plain = by_lists(unit, input(), c);
    CHECK(worst(fast, plain) < 1e-10);
    const TensorList a = gradients_of(unit, fast), b = gradients_of(unit, plain);
    for (size_t i = 0; i < a.size(); ++i) {
      CAPTURE(unit.parameters()[i].first);
      CHECK(worst(a[i], b[i]) < 1e-9);
    }
  }
}

TEST_CASE("with every token active and a window as long as the text seqboat is dense attention") {
  const Case c{R"(, "window": 20)"};
  SeqBoat unit = make(c.extra);
  push(unit, 60);
  const auto lists = active_tokens(unit, input(), context());
  REQUIRE((lists[0].size() == kTokens && lists[1].size() == kTokens));
  CHECK(worst(unit(input(), context()), by_lists(unit, input(), c, kTokens)) < 1e-12);
}

TEST_CASE("without an active token seqboat computes no score and gives hx") {
  SeqBoat unit = make("");
  push(unit, -60);
  const int64_t before = score_entries();
  Tensor x = input().detach();
  x.set_requires_grad();
  const Tensor y = unit(x, context());
  CHECK(score_entries() == before);
  CHECK(worst(y, slice(unit.choice(silu(unit.average(x))), -1, 2)) == 0);
  sum(y * y).backward();
  for (const double g : x.grad().to_vector<double>()) REQUIRE(std::isfinite(g));
  for (const auto& [name, value] : unit.parameters()) {
    if (!value.grad().defined()) continue;
    for (const double g : value.grad().to_vector<double>()) REQUIRE(std::isfinite(g));
  }
}

TEST_CASE("seqboat's score entries are those of the packed windows, linear in the length") {
  for (const char* extra : {"", R"(, "bias": "original")", R"(, "kernel": "relu2")"}) {
    CAPTURE(extra);
    std::vector<int64_t> counts;
    for (const int64_t tokens : {100, 200, 400}) {
      SeqBoat unit = make(extra, false, tokens);
      const auto lists = active_tokens(unit, input(tokens), context(tokens));
      int64_t want = 0;
      for (const auto& list : lists) {
        for (size_t i = 0; i < list.size(); ++i) {
          want += static_cast<int64_t>(std::min<size_t>(i, 3)) + 1;
        }
      }
      NoGrad off;
      const int64_t before = score_entries();
      unit(input(tokens), context(tokens));
      counts.push_back(score_entries() - before);
      CHECK(counts.back() == want);
    }
    SeqBoat all = make(std::string(extra) + R"(, "always_act": true)", false, 400);
    NoGrad off;
    const int64_t before = score_entries();
    all(input(400), context(400));
    CHECK(score_entries() - before == 2 * (400 * 4 - 6));
    CHECK(counts[2] < 4 * 2 * 400);
  }
}

TEST_CASE("in seqboat no bit before an edited token changes") {
  for (const char* extra : {"", R"(, "bias": "original")"}) {
    SeqBoat unit = make(extra, false, 100);
    unit.to(DType::f32);
    const Tensor x = input(100).to(DType::f32);
    NoGrad off;
    const Tensor before = unit(x, context(100));
    for (const int64_t t : {1, 17, 64, 99}) {
      const Tensor after =
          unit(concat({slice(x, 1, 0, t), slice(x, 1, t) * -2 + 1}, 1), context(100));
      CHECK(same_bits(slice(before, 1, 0, t), slice(after, 1, 0, t)));
    }
  }
}

TEST_CASE("packed places do not depend on inactive tokens between the active ones") {
  const Tensor chosen = from_values(std::vector<double>{0, 1, 0, 0, 1, 1, 0, 1}, {1, 8});
  const Packing p = packing_of(chosen.to(DType::boolean));
  const Tensor x = samples::normal({1, 8, 2});
  // Inactive tokens change places among themselves.
  const Tensor other =
      index_select(x, 1, from_values(std::vector<int64_t>{6, 1, 3, 0, 4, 5, 2, 7}, {8}));
  CHECK(worst(pack_rows(x, p), pack_rows(other, p)) == 0);
  CHECK(slice(p.entry, 1, 0, 4).to_vector<int64_t>() == std::vector<int64_t>{1, 4, 5, 7});
  CHECK(p.count.to_vector<int64_t>() == std::vector<int64_t>{4});
  // And an inactive token more in front of them moves positions, not places.
  const Packing moved = packing_of(
      from_values(std::vector<double>{0, 0, 1, 0, 0, 1, 1, 0, 1}, {1, 9}).to(DType::boolean));
  CHECK(slice(moved.entry, 1, 0, 4).to_vector<int64_t>() == std::vector<int64_t>{2, 5, 6, 8});
  CHECK(moved.count.to_vector<int64_t>() == std::vector<int64_t>{4});
}

TEST_CASE("inactive tokens give the choice exactly no gradient") {
  SeqBoat unit = make("");
  Tensor options;
  const auto lists = active_tokens(unit, input(), context());
  const ProbeScope scope(unit, [&](const std::string& path, const Tensor& value) {
    if (path == "options") options = value;
  });
  const Tensor y = unit(input(), context());
  const auto g = grad({sum(y * y)}, {options})[0].to_vector<double>();
  size_t inactive = 0;
  for (size_t b = 0; b < 2; ++b) {
    for (int64_t t = 0; t < kTokens; ++t) {
      const size_t at = 2 * (b * kTokens + static_cast<size_t>(t));
      const bool active = std::count(lists[b].begin(), lists[b].end(), t) > 0;
      CHECK((g[at] == 0) == !active);
      CHECK(g[at] == doctest::Approx(-g[at + 1]));
      inactive += active ? 0 : 1;
    }
  }
  CHECK(inactive > 4);
}

TEST_SUITE("gradient") {
  TEST_CASE("every form of seqboat has right gradients") {
    for (const Case& c : cases()) {
      CAPTURE(c.extra);
      CAPTURE(c.both);
      SeqBoat unit = make(c.extra, c.both);
      const Tensor x = input(9);
      const ProbeScope scope(unit, [&](const std::string& path, const Tensor& value) {
        if (path != "options") return;
        const Tensor pi = softmax(value.detach() / exp(unit.log_temperature.detach()), -1);
        for (const double p : pi.to_vector<double>()) REQUIRE(std::abs(p - 0.5) > 1e-3);
      });
      const auto result =
          check_module(unit,
                       [&](Module& m, const TensorList& in) {
                         return TensorList{static_cast<SeqBoat&>(m)(in[0], context(9, !c.both))};
                       },
                       {x}, {.max_entries = 12});
      CHECK_MESSAGE(result.ok, result.message);
    }
  }
}

namespace {

std::unique_ptr<Model> build(const std::string& text, const DataInfo& info) {
  RandomScope scope(1);
  auto model = from_json<Choice<Model>>(Json::parse(text)).build(info);
  model->eval();
  return model;
}

LanguageModel& lm(Model& model) {
  return dynamic_cast<LanguageModel&>(model);
}

Tensor logits_after(Model& model, const Tensor& tokens, std::vector<KvCache>& caches) {
  ForwardContext context;
  context.caches = &caches;
  return lm(model).logits(tokens, context);
}

}  // namespace

TEST_CASE("seqboat generates from constant memory what the whole sequence gives, 512 steps long") {
  const DataInfo info{.vocabulary = 29, .context = 512};
  const char* base = R"({"type": "seqboat", "width": 24, "depth": 2, "window": 8)";
  for (const char* extra : {"", R"(, "bias": "original", "kernel": "relu2")",
                            R"(, "bias": "none", "positions": "rotary", "residual": "post")"}) {
    CAPTURE(extra);
    auto model = build(std::string(base) + extra + "}", info);
    NoGrad off;
    const Tensor tokens = samples::integers({2, 512}, 0, 29);
    const Tensor whole = lm(*model).logits(tokens);
    std::vector<KvCache> caches = lm(*model).make_caches();
    TensorList parts;
    int64_t bytes = 0;
    for (int64_t at = 0; at < 512;) {
      const int64_t end = at == 0 ? 100 : at + 1;  // a prompt, then one by one
      parts.push_back(logits_after(*model, slice(tokens, 1, at, end), caches));
      if (at == 0) bytes = caches[0].bytes();
      CHECK(caches[0].bytes() == bytes);
      at = end;
    }
    CHECK(caches[0].length() == 512);
    CHECK(worst(concat(parts, 1), whole) < 1e-4);
  }
}

TEST_CASE("seqboat goes on from prompts of different lengths as from each alone") {
  auto model = build(R"({"type": "seqboat", "width": 16, "depth": 2, "window": 3,
                         "bias": "original"})",
                     {.vocabulary = 11, .context = 40});
  NoGrad off;
  const Tensor tokens = samples::integers({2, 30}, 0, 11);
  std::vector<KvCache> caches = lm(*model).make_caches();
  const std::vector<int64_t> lengths = {20, 13};
  ForwardContext context;
  context.caches = &caches;
  context.lengths = from_values(std::vector<int32_t>{20, 13}, {2});
  lm(*model).hidden(slice(tokens, 1, 0, 20), context);
  context.lengths = {};
  TensorList steps;
  for (int64_t i = 0; i < 10; ++i) {
    const Tensor next = concat({slice(slice(tokens, 0, 0, 1), 1, 20 + i, 21 + i),
                                slice(slice(tokens, 0, 1, 2), 1, 13 + i, 14 + i)},
                               0);
    steps.push_back(lm(*model).hidden(next, context));
  }
  const Tensor both = concat(steps, 1), whole = lm(*model).hidden(tokens, {});
  for (int64_t b = 0; b < 2; ++b) {
    const int64_t first = lengths[static_cast<size_t>(b)];
    CHECK(worst(slice(both, 0, b, b + 1), slice(slice(whole, 0, b, b + 1), 1, first, first + 10)) <
          1e-4);
  }
}

TEST_CASE("seqboat reports how many tokens act, its temperature and how far they look") {
  auto model = build(R"({"type": "seqboat", "width": 16, "depth": 3, "window": 4})",
                     {.vocabulary = 11, .context = 40});
  NoGrad off;
  Auxiliary auxiliary;
  ForwardContext watched;
  watched.layer.auxiliary = &auxiliary;
  lm(*model).logits(samples::integers({2, 40}, 0, 11), watched);
  for (const char* name :
       {"activation_rate", "activation_deviation", "temperature", "attended_span"}) {
    CAPTURE(name);
    REQUIRE(auxiliary.figures[name].size() == 3);
  }
  CHECK(auxiliary.figures["temperature"][0].to(DType::f64).item() == doctest::Approx(4));
  const double rate = auxiliary.figures["activation_rate"][0].to(DType::f64).item();
  CHECK((rate > 0.1 && rate < 0.9));
  // Every token acts: token i sees i − 1 … i − 4, on average 2.5 away once there are four.
  auto all = build(R"({"type": "seqboat", "width": 16, "depth": 1, "window": 4,
                       "always_act": true})",
                   {.vocabulary = 11, .context = 40});
  Auxiliary of_all;
  watched.layer.auxiliary = &of_all;
  lm(*all).logits(samples::integers({2, 40}, 0, 11), watched);
  CHECK(of_all.figures["activation_rate"][0].to(DType::f64).item() == 1);
  CHECK(of_all.figures["attended_span"][0].to(DType::f64).item() ==
        doctest::Approx((36 * 2.5 + 1 + 1.5 + 2) / 39));
}

TEST_CASE("init_std scales seqboat's first projections and gains; by default the model does") {
  const auto built = [](const std::string& extra) {
    RandomScope scope(5);
    return SeqBoat(from_json<SeqBoat::Config>(Json::parse(R"({"window": 3)" + extra + "}")),
                   {.width = kWidth, .context = kTokens});
  };
  const SeqBoat usual = built(""), wide = built(R"(, "init_std": 0.2)");
  const auto tenfold = [](const Tensor& small, const Tensor& large) {
    CHECK(worst(small * 10, large) < 1e-6);
  };
  tenfold(usual.choice.weight, wide.choice.weight);
  tenfold(usual.unit.weight, wide.unit.weight);
  tenfold(usual.gain, wide.gain);
  tenfold(usual.out.weight, wide.out.weight);
  CHECK(worst(usual.distance_bias, wide.distance_bias) == 0);
}

TEST_CASE("seqboat refuses what cannot be: batch norm in a causal model, biased scores") {
  const DataInfo info{.vocabulary = 11, .context = 8};
  CHECK_THROWS_WITH_AS(build(R"({"type": "seqboat", "norm": "batch"})", info),
                       doctest::Contains("batch norm sees later tokens"), Error);
  CHECK_THROWS_WITH_AS(build(R"({"type": "seqboat", "positions": "alibi"})", info),
                       doctest::Contains("bias scores"), Error);
  CHECK_THROWS_WITH_AS(build(R"({"type": "seqboat_image"})", info),
                       doctest::Contains("wants images"), Error);
}

TEST_CASE("seqboat is a mixer of the transformer, with its rotary positions") {
  auto model = build(R"({"type": "transformer", "width": 16, "depth": 2, "heads": 2,
      "attention": {"type": "seqboat", "window": 4, "bias": "none"}, "positions": "rotary"})",
                     {.vocabulary = 11, .context = 30});
  NoGrad off;
  const Tensor tokens = samples::integers({1, 30}, 0, 11);
  std::vector<KvCache> caches = lm(*model).make_caches();
  TensorList parts;
  for (int64_t t = 0; t < 30; ++t) {
    parts.push_back(logits_after(*model, slice(tokens, 1, t, t + 1), caches));
  }
  CHECK(worst(concat(parts, 1), lm(*model).logits(tokens)) < 1e-4);
}
