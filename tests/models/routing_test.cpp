// What the sheet of the Routing Transformer must show.
#include "tessera/attention/routing.h"

#include <doctest/doctest.h>

#include <cmath>

#include "tessera/attention/engines/dense.h"
#include "tessera/attention/engines/gather_attention.h"
#include "tessera/attention/kv_cache.h"
#include "tessera/autograd/custom.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/elementwise.h"
#include "tessera/autograd/ops/norm.h"
#include "tessera/autograd/ops/reduce.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/config/json.h"
#include "tessera/core/kernels/fill.h"
#include "tessera/models/model.h"
#include "tessera/nn/check.h"
#include "tessera/tests/support.h"

using namespace tessera;
using namespace tessera::test;

namespace {

constexpr int64_t kWidth = 8, kHeads = 2;

std::unique_ptr<Attention> layer(Json config, uint64_t seed = 3) {
  if (!config.contains("type")) config["type"] = "routing";
  RandomScope scope(seed);
  auto made = from_json<Choice<Attention>>(config).build(Geometry{
      .width = kWidth, .heads = kHeads, .context = 64, .init_std = 0.5, .output_init_std = 0.5});
  made->eval();
  return made;
}

RoutingAttention& routing(const std::unique_ptr<Attention>& m) {
  return dynamic_cast<RoutingAttention&>(*m);
}

Tensor run(Attention& m, const Tensor& x, bool causal = true, Auxiliary* auxiliary = nullptr) {
  AttentionContext context{.causal = causal, .layer = {.auxiliary = auxiliary}};
  context.positions = arange(0, static_cast<double>(x.size(1)));
  return m(x, context);
}

std::unique_ptr<Model> decoder(const Json& attention, int64_t context,
                               const std::string& more = "{}") {
  RandomScope scope(1);
  Json config = {{"type", "transformer"}, {"width", 16},    {"depth", 2}, {"heads", 4},
                 {"positions", "rotary"}, {"init_std", 0.2}};
  config["attention"] = attention;
  config.merge_patch(Json::parse(more));
  auto model =
      from_json<Choice<Model>>(config).build(DataInfo{.vocabulary = 11, .context = context});
  model->eval();
  return model;
}

LanguageModel& lm(const std::unique_ptr<Model>& model) {
  return dynamic_cast<LanguageModel&>(*model);
}

Tensor heads_of(const Tensor& x, int64_t heads) {
  return transpose(reshape(x, {x.size(0), x.size(1), heads, -1}), 1, 2);
}

// x with other numbers in token t.
Tensor changed(const Tensor& x, int64_t t) {
  return concat({slice(x, 1, 0, t), slice(x, 1, t, t + 1) * -2 + 1, slice(x, 1, t + 1)}, 1);
}

}  // namespace

TEST_CASE(
    "one cluster that takes every token is dense attention over normalised queries and keys") {
  for (const bool share : {true, false}) {
    for (const bool causal : {true, false}) {
      for (const char* selection : {"clusters", "strided", "random"}) {
        const auto m = layer({{"routing_heads", 2},
                              {"clusters", 1},
                              {"window", 99},
                              {"share_qk", share},
                              {"scatter_eps", 0},
                              {"selection", selection}});
        RandomScope scope(2);
        NoGrad off;
        const Tensor x = randn({2, 13, kWidth});
        const auto& r = routing(m);
        const Tensor all = r.qkv(x);
        const auto normal = [](const Tensor& t) { return layer_norm(t, {}, {}, 1e-6); };
        const Tensor q = normal(heads_of(slice(all, 2, 0, 8), 2));
        const Tensor k = share ? q : normal(heads_of(slice(all, 2, 8, 16), 2));
        const Tensor v = heads_of(slice(all, 2, share ? 8 : 16), 2);
        const Tensor o = dense_attention(q, k, v, {.causal = causal}).output;
        const Tensor want = r.out(reshape(transpose(o, 1, 2), {2, 13, kWidth}));
        CHECK(worst(run(*m, x, causal), want) < 1e-5);
      }
    }
  }
}

TEST_SUITE("gradient") {
  TEST_CASE(
      "gradients of queries, keys and values are right under frozen lists, for a token in two "
      "clusters and one in none") {
    // Token 3 is in both clusters, token 5 in neither.
    const Tensor lists = from_values(std::vector<int32_t>{0, 1, 3, 2, 3, 4}, {1, 1, 2, 3});
    const auto f = [&](const TensorList& in) {
      const Tensor q = layer_norm(in[0], {}, {}, 1e-6), k = layer_norm(in[1], {}, {}, 1e-6);
      const Tensor sums = grouped_gather_attention(q, k, in[2], lists, lists, Combine::sum,
                                                   {.causal = true, .scale = 1})
                              .output;
      const Tensor times = tensor({1, 1, 1, 2, 1, 0}, {6, 1}, DType::f64);
      return TensorList{sums * reciprocal(times + 0.01)};
    };
    const TensorList in = {samples::normal({1, 2, 6, 3}), samples::normal({1, 2, 6, 3}, 1),
                           samples::normal({1, 2, 6, 3}, 2)};
    const auto result = gradcheck(f, in);
    CHECK_MESSAGE(result.ok, result.message);
    const Tensor o = f(in)[0];
    CHECK(amax(abs(slice(o, 2, 5, 6))).item() == 0);
  }

  TEST_CASE("every variant of routing has right gradients, auxiliary losses included") {
    const char* variants[] = {
        R"({})",
        R"({"routing_heads": 2, "clusters": 3, "window": 4})",
        R"({"clusters": 3, "window": 4, "share_qk": false})",
        R"({"clusters": 3, "window": 4, "mask_self": true, "per_head_post_dense": true})",
        R"({"clusters": 3, "window": 4, "centroid_rule": "ema", "route_scale": 0.3})",
        R"({"clusters": 3, "window": 4, "centroid_rule": "gradient"})",
        R"({"clusters": 3, "window": 4, "relative": 2, "block": 3})",
        R"({"clusters": 3, "window": 4, "relative": 2, "block": 3, "share_qk": false})",
        R"({"clusters": 4, "window": 4, "selection": "hash"})",
        R"({"clusters": 3, "window": 4, "selection": "strided"})",
        R"({"type": "strict_routing", "clusters": 3, "window": 3, "routing_heads": 2})",
        R"({"type": "strict_routing", "clusters": 2, "window": 3, "mask_self": true})"};
    for (const char* text : variants) {
      Json config = Json::parse(text);
      config["commitment"] = 0.7;
      for (const bool causal : {true, false}) {
        if (!causal && config.contains("type")) continue;
        CAPTURE(std::string(text));
        CAPTURE(causal);
        const auto m = layer(config);
        const auto result = check_module(
            *m,
            [causal](Module& module, const TensorList& in) {
              Auxiliary auxiliary;  // learned centroids: two losses that stop each other's gradient
              const bool learned = module.parameters().back().first == "centroids.centroids";
              TensorList out = {run(static_cast<Attention&>(module), in[0], causal,
                                    learned ? nullptr : &auxiliary)};
              out.insert(out.end(), auxiliary.losses.begin(), auxiliary.losses.end());
              return out;
            },
            {samples::normal({2, 7, kWidth})}, {.max_entries = 20});
        CHECK_MESSAGE(result.ok, result.message);
      }
    }
  }
}

TEST_SUITE("gradient") {
  TEST_CASE("points are drawn to their centroids, and learned centroids to their points") {
    RandomScope scope(4);
    const Tensor x = samples::normal({2, 2, 5, 4}), nearest = samples::integers({2, 2, 5}, 0, 3);
    const Tensor hidden = from_values(std::vector<uint8_t>{0, 0, 0, 0, 0, 0, 0, 0, 1, 1}, {2, 1, 5})
                              .to(DType::boolean);
    for (const Tensor& h : {Tensor(), hidden}) {
      Centroids fixed({.clusters = 3, .centroid_rule = "ema"}, 2, 4);
      const auto points =
          check_module(fixed,
                       [&](Module& m, const TensorList& in) {
                         return TensorList{static_cast<Centroids&>(m).distance(in[0], nearest, h)};
                       },
                       {x});
      CHECK_MESSAGE(points.ok, points.message);
      Centroids learned({.clusters = 3, .centroid_rule = "gradient"}, 2, 4);
      const auto moved = check_module(
          learned,
          [&](Module& m, const TensorList&) {
            return TensorList{static_cast<Centroids&>(m).codebook_distance(x, nearest, h)};
          },
          {});
      CHECK_MESSAGE(moved.ok, moved.message);
      CHECK(moved.entries == 24);
    }
  }
}

TEST_CASE("centroids get no gradient, unless they are learned by it") {
  for (const char* rule : {"unit", "ema", "gradient"}) {
    const auto m = layer({{"clusters", 3}, {"window", 4}, {"centroid_rule", rule}});
    m->train();
    RandomScope scope(4);
    Auxiliary auxiliary;
    const Tensor y = run(*m, randn({2, 9, kWidth}), true, &auxiliary);
    Tensor loss = sum(square(y));
    for (const Tensor& x : auxiliary.losses) loss = loss + x;
    loss.backward();
    bool parameter = false;
    for (const auto& [name, p] : m->parameters()) parameter |= name == "centroids.centroids";
    CHECK(parameter == (std::string(rule) == "gradient"));
    const Tensor g = routing(m).centroids->values().grad();
    CHECK(g.defined() == parameter);
    if (parameter) CHECK(amax(abs(g)).item() > 0);
  }
}

namespace {

// One step of centroids over two heads, by loops.
struct Reference {
  std::vector<double> mean, count, sum;
};

Reference one_step(const Tensor& m0, const Tensor& points, bool ema, double decay) {
  const int64_t heads = m0.size(0), clusters = m0.size(1), d = m0.size(2);
  const int64_t batch = points.size(0), tokens = points.size(2);
  const auto m = m0.to_vector<double>(), x = points.to_vector<double>();
  Reference r{m, std::vector<double>(static_cast<size_t>(heads * clusters), 0), m};
  std::vector<double> near(m.size(), 0);
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t t = 0; t < tokens; ++t) {
        const double* row = x.data() + ((b * heads + h) * tokens + t) * d;
        int64_t best = 0;
        double most = -1e9;
        for (int64_t c = 0; c < clusters; ++c) {
          double s = 0;
          for (int64_t i = 0; i < d; ++i)
            s += row[i] * m[static_cast<size_t>((h * clusters + c) * d + i)];
          if (s > most) most = s, best = c;
        }
        r.count[static_cast<size_t>(h * clusters + best)] += 1;
        for (int64_t i = 0; i < d; ++i)
          near[static_cast<size_t>((h * clusters + best) * d + i)] += row[i];
      }
    }
  }
  for (int64_t h = 0; h < heads; ++h) {
    double all = 0;
    for (int64_t c = 0; c < clusters; ++c) {
      double& n = r.count[static_cast<size_t>(h * clusters + c)];
      const double here = n;
      n = ema ? (1 - decay) * n : n;
      all += n;
      double length = 0;
      for (int64_t i = 0; i < d; ++i)
        length += std::pow(near[static_cast<size_t>((h * clusters + c) * d + i)], 2);
      for (int64_t i = 0; i < d; ++i) {
        const auto at = static_cast<size_t>((h * clusters + c) * d + i);
        if (ema) r.sum[at] = decay * m[at] + (1 - decay) * near[at];
        if (!ema && here > 0)
          r.mean[at] = decay * m[at] + (1 - decay) * near[at] / std::sqrt(length);
      }
    }
    for (int64_t c = 0; ema && c < clusters; ++c) {
      const double n = r.count[static_cast<size_t>(h * clusters + c)];
      for (int64_t i = 0; i < d; ++i) {
        const auto at = static_cast<size_t>((h * clusters + c) * d + i);
        r.mean[at] = r.sum[at] / ((n + 1e-5) / (all + static_cast<double>(clusters) * 1e-5) * all);
      }
    }
  }
  return r;
}

double off(const Tensor& x, const std::vector<double>& want) {
  const auto got = x.to_vector<double>();
  double most = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    most = std::max(most, std::abs(got[i] - want[i]) / std::max(1.0, std::abs(want[i])));
  }
  return most;
}

Tensor buffer(Module& m, const std::string& name) {
  for (const auto& [path, x] : m.buffers()) {
    if (path == name) return x;
  }
  fail("no buffer {}", name);
}

}  // namespace

TEST_CASE("one step moves centroids as the formulas say") {
  for (const bool ema : {true, false}) {
    RandomScope scope(6);
    CentroidConfig config{.clusters = 5, .centroid_rule = ema ? "ema" : "unit", .decay = 0.9};
    Centroids c(config, 2, 4);
    c.to(DType::f64);
    if (!ema) kernels::fill(buffer(c, "batches"), 1);  // past its first batch
    const Tensor x = layer_norm(randn({3, 2, 6, 4}, DType::f64), {}, {}, 1e-6);
    const Tensor points = c.points(x), before = kernels::clone(c.values());
    c.begin(points, {});
    c.learn(points, argmax(c.nearness(points, {}), 2), {});
    const Reference want = one_step(before, points, ema, 0.9);
    CHECK(off(c.values(), want.mean) < 1e-6);
    if (ema) CHECK(off(buffer(c, "ema_count"), want.count) < 1e-6);
    if (ema) CHECK(off(buffer(c, "ema_sum"), want.sum) < 1e-6);
  }
}

TEST_CASE("k-means comes closer to three separated blobs over 200 steps, whichever rule moves it") {
  for (const char* rule : {"unit", "ema"}) {
    RandomScope scope(8);
    Centroids c({.clusters = 3, .centroid_rule = rule, .decay = 0.95}, 1, 8);
    const Tensor blobs = layer_norm(randn({3, 8}));
    const auto draw = [&] {
      const Tensor which = reshape(randint(0, 3, {60}), {60});
      const Tensor x = index_select(blobs, 0, which) + randn({60, 8}) * 0.2;
      return layer_norm(reshape(x, {2, 1, 30, 8}), {}, {}, 1e-6);
    };
    const auto objective = [&](const Tensor& points) {
      return c.distance(points, argmax(c.nearness(points, {}), 2), {}).item();
    };
    const Tensor held_out = c.points(draw());
    const double before = objective(held_out);
    for (int step = 0; step < 200; ++step) {
      const Tensor points = c.points(draw());
      c.begin(points, {});
      c.learn(points, argmax(c.nearness(points, {}), 2), {});
    }
    MESSAGE(std::string(rule) << ": " << before << " -> " << objective(held_out));
    CHECK(objective(held_out) < 0.5 * before);
  }
}

TEST_CASE("centroids stand still in evaluation, move once under recomputation and are restored") {
  for (const char* rule : {"unit", "ema"}) {
    const Json config = {
        {"type", "routing"}, {"clusters", 3}, {"window", 4}, {"centroid_rule", rule}};
    const auto m = layer(config);
    RandomScope scope(4);
    const Tensor x = randn({2, 9, kWidth}).set_requires_grad();
    const auto values = [&] { return routing(m).centroids->values().to_vector<float>(); };
    const auto start = values();
    run(*m, x);
    CHECK(values() == start);
    m->train();
    run(*m, x);
    const auto moved = values();
    CHECK(moved != start);
    const auto twin = layer(config, 99);
    twin->load_state(m->state());
    twin->train();
    CHECK(routing(twin).centroids->values().to_vector<float>() == moved);

    // Plain and recomputed steps from there: the same gradients, the same centroids.
    run(*m, x).backward(ones({2, 9, kWidth}));
    const Tensor again = x.detach().set_requires_grad();
    checkpoint([&](const TensorList& in) { return TensorList{run(*twin, in[0])}; }, {again})[0]
        .backward(ones({2, 9, kWidth}));
    CHECK(worst(x.grad(), again.grad()) < 1e-6);
    CHECK(routing(twin).centroids->values().to_vector<float>() == values());
    CHECK(values() != moved);
  }
}

TEST_CASE(
    "an edit changes nothing before it: always when strict, and whenever the lists before it "
    "stay the same otherwise") {
  NoGrad off;
  RandomScope scope(5);
  const int64_t n = 24;
  const Tensor x = randn({1, n, kWidth});
  const auto strict =
      layer({{"type", "strict_routing"}, {"routing_heads", 2}, {"clusters", 3}, {"window", 5}});
  const Tensor want = run(*strict, x);
  for (int64_t t = 1; t < n; ++t) {
    const Tensor got = run(*strict, changed(x, t));
    CHECK(worst(slice(got, 1, 0, t), slice(want, 1, 0, t)) < 1e-6);
    CHECK(worst(slice(got, 1, t, t + 1), slice(want, 1, t, t + 1)) > 1e-4);
  }
  const auto paper = layer({{"routing_heads", 2}, {"clusters", 4}, {"window", 8}});
  const auto times = [&](const Tensor& input, Tensor& y) {
    Tensor chosen;
    const ProbeScope listen(*paper, [&](const std::string& path, const Tensor& value) {
      if (path == "lists") chosen = kernels::clone(value);
    });
    y = run(*paper, input);
    return chosen;
  };
  Tensor before, after;
  const Tensor lists = times(x, before);
  int same = 0, pushed = 0;
  for (int64_t t = 1; t < n; ++t) {
    const Tensor other = times(changed(x, t), after);
    const auto a = lists.to_vector<int32_t>(), b = other.to_vector<int32_t>();
    const auto early = [&](const std::vector<int32_t>& all) {  // of each list, the tokens before t
      std::vector<std::vector<int32_t>> of(all.size() / 8);
      for (size_t i = 0; i < all.size(); ++i) {
        if (all[i] < t) of[i / 8].push_back(all[i]);
      }
      return of;
    };
    const double moved = worst(slice(before, 1, 0, t), slice(after, 1, 0, t));
    if (early(a) == early(b)) {
      ++same;
      CHECK(moved < 1e-6);
    } else {
      ++pushed;
    }
  }
  CHECK(same > 0);
  CHECK(pushed > 0);
}

TEST_CASE("score entries grow as n^1.5 with as many clusters as the root of the length") {
  NoGrad off;
  RandomScope scope(5);
  std::vector<double> entries, dense;
  const std::vector<int64_t> lengths = {256, 512, 1024, 2048};
  for (const int64_t n : lengths) {
    const auto clusters = static_cast<int64_t>(std::lround(std::sqrt(static_cast<double>(n))));
    const auto m = layer({{"routing_heads", 2}, {"clusters", clusters}, {"window", n / clusters}});
    const int64_t before = score_entries();
    run(*m, randn({1, n, kWidth}));
    entries.push_back(static_cast<double>(score_entries() - before));
    const int64_t window = n / clusters;
    CHECK(entries.back() ==
          static_cast<double>(2 * (n * clusters + clusters * window * (window + 1) / 2)));
    dense.push_back(static_cast<double>(n) * static_cast<double>(n + 1));
  }
  const auto slope = [&](const std::vector<double>& y) {
    return std::log(y.back() / y.front()) / std::log(8.0);
  };
  MESSAGE("slope " << slope(entries) << ", dense " << slope(dense));
  CHECK(slope(entries) == doctest::Approx(1.5).epsilon(0.1 / 1.5));
  CHECK(slope(dense) == doctest::Approx(2.0).epsilon(0.01));
}

TEST_CASE(
    "relative vectors by plain operations equal the engines where they are zero, and tell ranks "
    "and distances apart where not") {
  NoGrad off;
  RandomScope scope(5);
  const Tensor x = randn({2, 11, kWidth});
  for (const bool causal : {true, false}) {
    for (const bool share : {true, false}) {
      Json config = {
          {"clusters", 3}, {"window", 4}, {"block", 4}, {"share_qk", share}, {"relative", 2}};
      const auto with = layer(config);
      config["relative"] = 0;
      const auto without = layer(config);
      for (const auto& [name, p] : without->parameters()) {
        for (const auto& [other, q] : with->parameters()) {
          if (name == other) kernels::copy(p, q);
        }
      }
      kernels::copy(routing(without).centroids->values(), routing(with).centroids->values());
      CHECK(worst(run(*with, x, causal), run(*without, x, causal)) > 1e-3);
      for (auto* vectors : {&*routing(with).local_relative, &*routing(with).routing_relative}) {
        kernels::fill(vectors->key, 0);
        kernels::fill(vectors->value, 0);
      }
      const int64_t before = score_entries();
      const Tensor a = run(*with, x, causal);
      const int64_t between = score_entries();
      const Tensor b = run(*without, x, causal);
      CHECK(worst(a, b) < 1e-5);
      if (share && causal) CHECK(between - before == score_entries() - between);
    }
  }
}

TEST_CASE("strict routing generates from its cache what it gives for the whole text") {
  NoGrad off;
  const int64_t n = 20;
  const Tensor tokens = samples::integers({2, n}, 0, 11, 1);
  const auto model =
      decoder({{"type", "strict_routing"}, {"clusters", 3}, {"window", 4}, {"block", 3}}, n);
  const Tensor whole = lm(model).logits(tokens);
  for (const int64_t chunk : {1, 3, 20}) {
    auto caches = lm(model).make_caches();
    REQUIRE(caches.size() == 2);
    TensorList parts;
    for (int64_t at = 0; at < n; at += chunk) {
      parts.push_back(
          lm(model).logits(slice(tokens, 1, at, std::min(n, at + chunk)), {.caches = &caches}));
    }
    CHECK(worst(concat(parts, 1), whole) < 1e-4);
  }
  const auto paper = decoder({{"type", "routing"}}, n);
  CHECK(lm(paper).make_caches().empty());
}

TEST_CASE("mask_self leaves a token to itself only where nobody else is there") {
  NoGrad off;
  RandomScope scope(5);
  const auto m = layer({{"routing_heads", 2},
                        {"clusters", 1},
                        {"window", 99},
                        {"mask_self", true},
                        {"scatter_eps", 0}});
  const Tensor x = randn({1, 6, kWidth});
  const Tensor y = run(*m, x);
  const Tensor v = slice(routing(m).qkv(x), 2, 8);
  CHECK(worst(slice(y, 1, 0, 1), routing(m).out(slice(v, 1, 0, 1))) < 1e-5);
  CHECK(worst(slice(y, 1, 1, 2), routing(m).out(slice(v, 1, 0, 1))) < 1e-5);  // sees token 0 alone
}

TEST_CASE("the first layers may be local alone, and settings that make no sense are refused") {
  const auto model = decoder({{"type", "routing"}, {"skip_first", 1}}, 12);
  int with = 0;
  for (const auto& [name, b] : model->buffers())
    with += name.ends_with("centroids.centroids") ? 1 : 0;
  CHECK(with == 1);
  CHECK_THROWS_WITH_AS(layer({{"routing_heads", 3}}), doctest::Contains("3 routing_heads of 2"),
                       Error);
  CHECK_THROWS_WITH_AS(layer({{"mask_self", true}, {"share_qk", false}}),
                       doctest::Contains("mask_self wants share_qk"), Error);
  CHECK_THROWS_WITH_AS(layer({{"selection", "hash"}, {"clusters", 3}}),
                       doctest::Contains("power of two"), Error);
  CHECK_THROWS_WITH_AS(layer({{"type", "strict_routing"}, {"relative", 3}}),
                       doctest::Contains("relative 0"), Error);
}

TEST_CASE("an embedding may be narrower than the stream, and input tokens may be dropped") {
  RandomScope scope(2);
  const auto model = decoder("dense", 12, R"({"embedding_width": 6, "target_dropout": 0.5})");
  const Tensor tokens = samples::integers({2, 12}, 1, 11, 1);
  NoGrad off;
  CHECK(lm(model).head().shape() == Shape{11, 6});
  const Tensor kept = lm(model).logits(tokens);
  CHECK(kept.shape() == Shape{2, 12, 11});
  CHECK(worst(lm(model).logits(tokens), kept) == 0);
  model->train();
  CHECK(worst(lm(model).logits(tokens), kept) > 1e-4);
}
