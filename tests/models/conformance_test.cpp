// Everything registered is tested here without anyone writing the test again.
#include "tessera/models/conformance.h"

#include <doctest/doctest.h>

#include "tessera/attention/attention.h"
#include "tessera/attention/kv_cache.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/tape.h"
#include "tessera/config/fields.h"
#include "tessera/config/json.h"
#include "tessera/core/create.h"
#include "tessera/core/random.h"
#include "tessera/models/model.h"
#include "tessera/nn/feed_forward.h"
#include "tessera/nn/positions.h"
#include "tessera/tests/support.h"

using namespace tessera;

TEST_SUITE("conformance") {
  TEST_CASE("every registered mechanism, layer and model has right gradients") {
    for (const GradcheckRow& row : gradcheck_rows()) {
      if (row.kind == "op") continue;  // tests/autograd checks the ops
      const GradcheckResult result = row.run();
      CHECK_MESSAGE(result.ok, row.kind << " " << row.name << ": " << result.message);
      CHECK(result.entries > 0);
    }
  }

  TEST_CASE("every registered config comes back from its own JSON") {
    for (const RegistryInfo& registry : all_registries()) {
      for (const Entry& entry : registry.entries) {
        CAPTURE(registry.kind);
        CAPTURE(entry.name);
        CHECK(entry.default_json()["type"] == entry.name);
        CHECK(entry.schema().is_object());
        CHECK_FALSE(entry.describe().empty());
      }
    }
  }

  TEST_CASE("every registered model lists each of its parameters exactly once and restores them") {
    const DataInfo info{.vocabulary = 7,
                        .context = 6,
                        .channels = 3,
                        .height = 8,
                        .width = 8,
                        .classes = 3,
                        .users = 5,
                        .items = 6};
    for (const std::string& type : registered_names(Model::kKind)) {
      CAPTURE(type);
      RandomScope scope(1);
      const int64_t before = parameters_born();
      auto a = Choice<Model>(type).build(info);
      CHECK(parameters_born() - before == static_cast<int64_t>(a->parameters().size()));
      auto b = Choice<Model>(type).build(info);
      b->load_state(a->state());
      const auto pa = a->state();
      const auto pb = b->state();
      for (size_t i = 0; i < pa.size(); ++i) {
        CHECK(pa[i].first == pb[i].first);
        CHECK(pa[i].second.to_vector<float>() == pb[i].second.to_vector<float>());
      }
    }
  }

  // What is promised of every attention mechanism that does not say it cannot do it.
  struct Mechanism {
    static constexpr int64_t kTokens = 9;
    const Entry& entry;
    std::unique_ptr<Attention> layer;
    std::unique_ptr<Positions> positions;
    Tensor x;

    explicit Mechanism(const std::string& type, const char* encoding = "rotary")
        : entry(find_entry(Attention::kKind, type, type)) {
      RandomScope scope(3);
      Geometry g{
          .width = 16, .heads = 4, .context = kTokens, .init_std = 0.4, .output_init_std = 0.4};
      if (!can(capability::kSequence)) g.grid_height = g.grid_width = 3;
      layer = Choice<Attention>(type).build(g);
      layer->eval();
      positions = Choice<Positions>(encoding).build(
          PositionGeometry{.width = 16, .context = kTokens, .heads = 4, .head_dim = 4});
      x = randn({2, kTokens, 16});
    }
    bool can(const char* capability) const { return !entry.unsupported(capability); }
    AttentionContext context(int64_t first, int64_t count, bool causal) const {
      AttentionContext c{.causal = causal, .encoding = positions.get()};
      c.positions = arange(static_cast<double>(first), static_cast<double>(first + count));
      return c;
    }
    Tensor run(const Tensor& input, const AttentionContext& c) const {
      NoGrad off;
      return (*layer)(input, c);
    }
    Tensor whole(const Tensor& input) const {
      return run(input, context(0, input.size(1), can(capability::kCausal)));
    }
  };

  // x with other numbers from token `first` on.
  Tensor changed(const Tensor& x, int64_t first) {
    return concat({slice(x, 1, 0, first), slice(x, 1, first) * -2 + 1}, 1);
  }

  TEST_CASE("no causal mechanism looks ahead") {
    for (const std::string& type : registered_names(Attention::kKind)) {
      CAPTURE(type);
      const Mechanism m(type);
      if (!m.can(capability::kCausal)) continue;
      const Tensor before = m.whole(m.x);
      for (int64_t t = 1; t < Mechanism::kTokens; ++t) {
        const Tensor after = m.whole(changed(m.x, t));
        CHECK(test::worst(slice(before, 1, 0, t), slice(after, 1, 0, t)) < 1e-6);
        CHECK(test::worst(slice(before, 1, t), slice(after, 1, t)) > 1e-3);
      }
    }
  }

  TEST_CASE("a bidirectional mechanism lets tokens see later ones") {
    for (const std::string& type : registered_names(Attention::kKind)) {
      CAPTURE(type);
      const Mechanism m(type);
      if (!m.can(capability::kBidirectional)) continue;
      const auto both = m.context(0, Mechanism::kTokens, false);
      const Tensor before = m.run(m.x, both), after = m.run(changed(m.x, 1), both);
      CHECK(test::worst(slice(before, 1, 0, 1), slice(after, 1, 0, 1)) > 1e-3);
    }
  }

  TEST_CASE("a mechanism with a cache gives what it gives for the whole sequence") {
    for (const std::string& type : registered_names(Attention::kKind)) {
      CAPTURE(type);
      const Mechanism m(type);
      if (!m.can(capability::kCache)) continue;
      KvCache cache(Mechanism::kTokens);
      TensorList parts;
      for (auto [begin, end] : {std::pair<int64_t, int64_t>{0, 4}, {4, 5}, {5, 9}}) {
        AttentionContext c = m.context(begin, end - begin, true);
        c.cache = &cache;
        parts.push_back(m.run(slice(m.x, 1, begin, end), c));
      }
      CHECK(test::worst(concat(parts, 1), m.whole(m.x)) < 1e-5);
    }
  }

  TEST_CASE("what lies beyond the length of a row changes nothing before it") {
    for (const std::string& type : registered_names(Attention::kKind)) {
      CAPTURE(type);
      const Mechanism m(type);
      if (!m.can(capability::kLengths)) continue;
      AttentionContext c = m.context(0, Mechanism::kTokens, m.can(capability::kCausal));
      c.lengths = from_values(std::vector<int32_t>{5, 5}, {2});
      const Tensor before = m.run(m.x, c), after = m.run(changed(m.x, 5), c);
      CHECK(test::worst(slice(before, 1, 0, 5), slice(after, 1, 0, 5)) < 1e-6);
    }
  }

  TEST_CASE("positions that bias scores change what a mechanism gives") {
    for (const std::string& type : registered_names(Attention::kKind)) {
      CAPTURE(type);
      const Mechanism plain(type, "none"), biased(type, "alibi");
      if (!plain.can(capability::kScoreBias)) continue;
      CHECK(test::worst(plain.whole(plain.x), biased.whole(biased.x)) > 1e-3);
    }
  }

  TEST_CASE("a mechanism refuses what it says it cannot do, and each refusal is still needed") {
    for (const std::string& type : registered_names(Attention::kKind)) {
      CAPTURE(type);
      const Mechanism m(type, "alibi"), plain(type, "none");
      const auto refused = [&](const char* what, const auto& call) {
        if (m.can(what)) return;
        CAPTURE(what);
        CHECK_THROWS_AS(call(), Error);
      };
      refused(capability::kCausal,
              [&] { plain.run(plain.x, plain.context(0, Mechanism::kTokens, true)); });
      refused(capability::kBidirectional,
              [&] { plain.run(plain.x, plain.context(0, Mechanism::kTokens, false)); });
      refused(capability::kScoreBias, [&] { m.whole(m.x); });
      refused(capability::kLengths, [&] {
        AttentionContext c = plain.context(0, Mechanism::kTokens, plain.can(capability::kCausal));
        c.lengths = from_values(std::vector<int32_t>{5, 5}, {2});
        plain.run(plain.x, c);
      });
      refused(capability::kCache, [&] {
        KvCache cache(Mechanism::kTokens);
        AttentionContext c = plain.context(0, 4, plain.can(capability::kCausal));
        c.cache = &cache;
        plain.run(slice(plain.x, 1, 0, 4), c);
      });
      refused(capability::kSequence, [&] {
        Choice<Attention>(type).build(Geometry{.width = 16, .heads = 4, .context = 9});
      });
    }
  }
}
