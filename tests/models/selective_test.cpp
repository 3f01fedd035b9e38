// What the sheet of selective self-attention must show.
#include "tessera/attention/selective.h"

#include <doctest/doctest.h>

#include <cmath>

#include "tessera/attention/dense.h"
#include "tessera/attention/engines/dense.h"
#include "tessera/attention/heads.h"
#include "tessera/attention/kv_cache.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/comparison.h"
#include "tessera/autograd/ops/elementwise.h"
#include "tessera/autograd/ops/matmul.h"
#include "tessera/autograd/ops/reduce.h"
#include "tessera/autograd/ops/softmax.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/config/json.h"
#include "tessera/core/kernels/fill.h"
#include "tessera/models/model.h"
#include "tessera/nn/check.h"
#include "tessera/tests/support.h"
#include "tessera/train/optimizer.h"

using namespace tessera;
using namespace tessera::test;

namespace {

constexpr int64_t kWidth = 8, kHeads = 2, kTokens = 6;
const Geometry kGeometry{
    .width = kWidth, .heads = kHeads, .context = 16, .init_std = 0.5, .output_init_std = 0.5};
// A coefficient of nearly 0: with w = 0 every temperature is 1.
constexpr const char* kNeutral = R"({"init_coefficient": -60})";

SelectiveAttention made(const std::string& config, const Geometry& g = kGeometry) {
  RandomScope scope(3);
  SelectiveAttention layer(from_json<SelectiveConfig>(Json::parse(config)), g);
  layer.eval();
  return layer;
}

// In f64, with w ≠ 0.
SelectiveAttention moved(const std::string& config) {
  SelectiveAttention layer = made(config);
  RandomScope scope(4);
  for (auto* tau : {&layer.tau_q, &layer.tau_k, &layer.tau_v}) {
    if (*tau && (*tau)->weight.defined())
      kernels::copy((*tau)->weight, randn((*tau)->weight.shape()));
  }
  layer.to(DType::f64);
  return layer;
}

AttentionContext context(bool causal = true, int64_t first = 0, int64_t count = kTokens) {
  AttentionContext c{.causal = causal};
  c.positions = arange(static_cast<double>(first), static_cast<double>(first + count));
  return c;
}

Tensor input() {
  return samples::normal({2, kTokens, kWidth});
}

Tensor log_positions() {
  return log(arange(1, kTokens + 1).to(DType::f64));
}

// Trains the parameters of `module` and gives the last loss.
double trained(Module& module, int steps, double rate, const std::function<Tensor()>& loss) {
  const auto optimizer =
      from_json<Choice<Optimizer>>(Json{{"type", "adamw"}, {"lr", rate}, {"weight_decay", 0}})
          .build(parameters_of(module));
  double last = 0;
  for (int step = 0; step < steps; ++step) {
    const Tensor value = loss();
    value.backward();
    optimizer->step(1);
    module.zero_grad();
    last = value.item();
  }
  return last;
}

// Weights (B, H, N, N) that the layer multiplies its values with; differentiable.
Tensor weights_of(SelectiveAttention& m, const Tensor& x, const AttentionContext& c) {
  const WeightsScope wanted;
  Tensor found;
  ProbeScope scope(m, [&](const std::string& path, const Tensor& value) {
    if (path == "weights") found = value;
  });
  m(x, c);
  return found;
}

}  // namespace

TEST_CASE("with temperatures of 1 selective attention is dense attention") {
  SelectiveAttention layer = made(kNeutral);
  DenseAttentionLayer dense({}, kGeometry);
  layer.to(DType::f64);
  dense.qkv = layer.qkv;
  dense.out = layer.out;
  for (const bool causal : {true, false}) {
    CHECK(worst(layer(input(), context(causal)), dense(input(), context(causal))) < 1e-15);
  }
  SelectiveAttention off = made(R"({"query": "off", "value": "off"})");
  off.to(DType::f64);
  CHECK(same_bits(off(input(), context()), dense(input(), context())));
}

TEST_CASE("a decoder that takes a dense one's weights gives its logits until temperatures move") {
  const auto decoder = [](const Json& attention) {
    RandomScope scope(1);
    const Json config = {{"type", "transformer"},
                         {"width", 16},
                         {"depth", 3},
                         {"heads", 4},
                         {"attention", attention}};
    auto model = from_json<Choice<Model>>(config).build(DataInfo{.vocabulary = 11, .context = 12});
    model->eval();
    return model;
  };
  const auto dense = decoder("dense");
  const auto selective = decoder({{"type", "selective"}, {"init_coefficient", -20}});
  const NamedTensors given = dense->state();
  NamedTensors all = selective->state();
  for (auto& [name, own] : all) {
    for (const auto& [its, value] : given) {
      if (its == name) own = value;
    }
  }
  selective->load_state(all);
  const Tensor tokens = samples::integers({2, 12}, 0, 11, 1);
  NoGrad off;
  const auto logits = [&](Model& m) { return dynamic_cast<LanguageModel&>(m).logits(tokens); };
  CHECK(worst(logits(*selective), logits(*dense)) < 1e-6);
}

TEST_CASE("temperatures scale rows of scores, columns of scores, and values") {
  for (const char* config : {R"({"key": "both"})", R"({"reader": "linear", "value": "both"})",
                             R"({"reader": "mlp", "hidden": 5, "key": "token"})"}) {
    CAPTURE(config);
    SelectiveAttention layer = moved(config);
    const TensorList parts = split(layer.qkv(input()), {kWidth, kWidth, kWidth}, -1);
    const Tensor q = split_heads(parts[0], kHeads), k = split_heads(parts[1], kHeads);
    const Tensor v = split_heads(parts[2], kHeads), l = log_positions();
    Tensor scores = matmul(q, transpose(k, 2, 3)) * 0.5 * (*layer.tau_q)(input(), q, l);
    if (layer.tau_k) scores = scores * transpose((*layer.tau_k)(input(), k, l), 2, 3);
    const Tensor at = arange(0, kTokens);
    const Tensor p = softmax(masked_fill(scores, gt(at, reshape(at, {kTokens, 1})), -INFINITY), -1);
    const Tensor mixed = matmul(p, v * (*layer.tau_v)(input(), v, l));
    CHECK(worst(layer(input(), context()), layer.out(merge_heads(mixed))) < 1e-12);
  }
}

TEST_CASE("temperatures start at 1 for the first token and grow with the logarithm of the place") {
  for (const std::string form : {"sigmoid", "gumbel", "linear"}) {
    CAPTURE(form);
    SelectiveAttention layer =
        made(fmt::format(R"({{"coefficient": "{}", "init_coefficient": 0.5}})", form));
    layer.to(DType::f64);
    const Tensor q = samples::normal({2, kHeads, kTokens, kWidth / kHeads});
    const auto tau = (*layer.tau_q)(input(), q, log_positions()).to_vector<double>();
    const double c = form == "sigmoid"  ? 1 / (1 + std::exp(-0.5))
                     : form == "gumbel" ? std::exp(-std::exp(0.5))
                                        : 0.5;
    for (size_t i = 0; i < kTokens; ++i) {
      CHECK(tau[i] == doctest::Approx(1 + c * std::log(static_cast<double>(i + 1))));
    }
  }
}

TEST_CASE("in both directions the place is the number of keys, to the end of a row") {
  SelectiveAttention layer = made(R"({"value": "off", "query": "position"})");
  layer.to(DType::f64);
  std::vector<double> seen;
  ProbeScope scope(layer, [&](const std::string& path, const Tensor& tau) {
    if (path != "tau_q.temperature") return;
    const auto values = tau.to_vector<double>();
    seen.insert(seen.end(), values.begin(), values.end());
  });
  AttentionContext c = context(false);
  layer(input(), c);
  c.lengths = from_values(std::vector<int32_t>{1, 4}, {2});
  layer(input(), c);
  const std::vector<double> want = {1 + 0.5 * std::log(6.0), 1 + 0.5 * std::log(6.0), 1, 1,
                                    1 + 0.5 * std::log(4.0), 1 + 0.5 * std::log(4.0)};
  REQUIRE(seen.size() == want.size());
  for (size_t i = 0; i < want.size(); ++i) CHECK(seen[i] == doctest::Approx(want[i]));
}

TEST_CASE("signed values are silent at first and may turn round") {
  SelectiveAttention layer = made(R"({"signed_values": true, "bias": false})");
  CHECK(worst(layer(input().to(DType::f32), context()), zeros({2, kTokens, kWidth})) == 0);
  kernels::fill(layer.tau_v->weight, -1);
  const Tensor v = abs(randn({1, kHeads, kTokens, kWidth / kHeads}));
  const Tensor tau = (*layer.tau_v)(input().to(DType::f32), v, zeros({kTokens})) - 1;
  CHECK(amax(tau).item() < 0);
  CHECK_THROWS_WITH_AS(made(R"({"signed_values": true, "value": "both"})"),
                       doctest::Contains("selective: signed_values wants"), Error);
}

TEST_CASE("a selective cache holds scaled keys and values: any steps give the whole pass") {
  SelectiveAttention layer = moved(R"({"key": "both", "value": "both"})");
  NoGrad off;
  const Tensor whole = layer(input(), context());
  for (const auto& steps :
       std::vector<std::vector<int64_t>>{{1, 1, 1, 1, 1, 1}, {4, 2}, {3, 1, 2}}) {
    KvCache cache(kTokens);
    TensorList parts;
    int64_t at = 0;
    for (const int64_t count : steps) {
      AttentionContext c = context(true, at, count);
      c.cache = &cache;
      parts.push_back(layer(slice(input(), 1, at, at + count), c));
      at += count;
    }
    CHECK(worst(concat(parts, 1), whole) < 1e-12);
  }
}

TEST_CASE("a query's temperature changes nothing over equal keys and sharpens all others") {
  const Tensor equal = randn({1, 1, 1, 4}), v = randn({1, 1, 5, 4}), q = randn({1, 1, 1, 4});
  const Tensor same = expand(equal, {1, 1, 5, 4}), keys = randn({1, 1, 5, 4});
  const Tensor plain = dense_attention(q, same, v).output;
  double before = INFINITY;
  for (const double tau : {0.5, 1.0, 2.0, 4.0}) {
    CHECK(worst(dense_attention(q * tau, same, v).output, plain) < 1e-5);
    const Tensor p = softmax(matmul(q * tau, transpose(keys, 2, 3)) * 0.5, -1);
    const double entropy = sum(neg(p * log(p))).item();
    CHECK(entropy < before);
    before = entropy;
  }
}

TEST_CASE("shared temperatures add less than half a percent to GPT-2's parameters") {
  const Geometry g{.width = 768, .heads = 12, .context = 1024};
  SelectiveAttention selective = made("{}", g);
  DenseAttentionLayer dense({}, g);
  const int64_t added = 12 * (selective.parameter_count() - dense.parameter_count());
  CHECK(added == 12 * (2 * 768 + 12));
  const double percent = 100 * static_cast<double>(added) / 124439808;
  MESSAGE("12 layers: " << added << " parameters, " << percent << " % of 124,439,808");
  CHECK(percent < 0.5);
}

TEST_CASE("with a coefficient of 0.3 the largest probability of long rows decays more slowly") {
  RandomScope scope(4);
  const auto largest = [](int64_t n, double tau) {
    return mean(amax(softmax(randn({200, n}) * tau, -1), {1})).item();
  };
  std::vector<double> plain, sharp;
  for (const int64_t n : {64, 256, 1024, 4096}) {
    plain.push_back(largest(n, 1));
    sharp.push_back(largest(n, 1 + 0.3 * std::log(static_cast<double>(n))));
    MESSAGE(n << " keys: " << plain.back() << " without, " << sharp.back() << " with temperatures");
  }
  CHECK(plain.back() / plain.front() < 0.2);
  CHECK(sharp.back() / sharp.front() > 0.5);
}

TEST_CASE("spikiness is 1 for even rows and that of the definition for others") {
  SelectiveAttention layer = made("{}");
  kernels::fill(layer.qkv.bias, 0);
  const auto reported = [&](bool causal) {
    Auxiliary auxiliary;
    AttentionContext c = context(causal);
    c.layer.auxiliary = &auxiliary;
    layer(input().to(DType::f32), c);
    return auxiliary.figures.at("spikiness").at(0).item();
  };
  NoGrad off;
  for (const bool causal : {true, false}) {
    const Tensor p = weights_of(layer, input().to(DType::f32), context(causal));
    const Tensor keys = causal ? arange(1, kTokens + 1).to(DType::f32) : full({1}, kTokens);
    const double want = mean(pow(sum(p * p, {3}) * keys, -1)).item();
    CHECK(reported(causal) == doctest::Approx(want).epsilon(1e-4));
    CHECK(want < 0.98);
  }
  kernels::fill(layer.qkv.weight, 0);
  CHECK(reported(true) == doctest::Approx(1));
}

TEST_SUITE("gradient") {
  TEST_CASE("selective temperatures have right gradients in every form") {
    for (const char* config :
         {R"({"key": "both"})", R"({"reader": "linear", "coefficient": "gumbel"})",
          R"({"reader": "mlp", "hidden": 3, "coefficient": "linear", "value": "both"})",
          R"({"query": "position", "signed_values": true})",
          R"({"query": "token", "kv_heads": 1})"}) {
      CAPTURE(config);
      SelectiveAttention layer = moved(config);
      for (const bool causal : {true, false}) {
        const auto run = [causal](Module& m, const TensorList& in) {
          return TensorList{static_cast<SelectiveAttention&>(m)(in[0], context(causal))};
        };
        const auto result = check_module(layer, run, {input()}, {.max_entries = 20});
        CHECK_MESSAGE(result.ok, result.message);
      }
    }
  }
}

// A Markov chain over a graph: from node i each of its 1, 2, 4 or 8 successors is as likely. The
// layer sees all nodes, and its weights are to be the chain.
namespace {

constexpr int64_t kNodes = 16;

struct Fit {
  double gap = 0;   // of the cross-entropy to the chain's entropy
  double l1 = 0;    // mean over nodes
  double norm = 0;  // ‖W_qᵀ W_k‖
};

// The chain (kNodes, kNodes) and its entropy.
std::pair<Tensor, double> markov_chain() {
  std::vector<double> chain(kNodes * kNodes, 0);
  double entropy = 0;
  for (int64_t i = 0; i < kNodes; ++i) {
    const int64_t successors = int64_t{1} << (i % 4);
    entropy += std::log(static_cast<double>(successors)) / kNodes;
    for (int64_t s = 0; s < successors; ++s) {
      const int64_t to = (3 * i + 5 * s + 1) % kNodes;
      chain[static_cast<size_t>(i * kNodes + to)] = 1 / static_cast<double>(successors);
    }
  }
  return {from_values(chain, {kNodes, kNodes}).to(DType::f32), entropy};
}

Fit fit_chain(const std::string& config, int64_t width, double rate, uint64_t seed) {
  RandomScope scope(seed);
  const auto [chain, entropy] = markov_chain();
  const Tensor target = chain, nodes = randn({1, kNodes, width});
  SelectiveAttention layer(
      from_json<SelectiveConfig>(Json::parse(config)),
      Geometry{.width = width, .heads = 1, .context = kNodes, .bias = false, .init_std = 0.1});
  Tensor p;
  const double loss = trained(layer, 300, rate, [&] {
    p = weights_of(layer, nodes, context(false));
    return sum(target * log(p + 1e-12)) * (-1.0 / kNodes);
  });
  NoGrad off;
  const TensorList qkv = chunk(layer.qkv.weight, 3, 0);
  const Tensor w = matmul(transpose(qkv[0], 0, 1), qkv[1]);
  return {loss - entropy, sum(abs(p - target)).item() / kNodes, std::sqrt(sum(w * w).item())};
}

Fit mean_fit(const char* config, int64_t width, double rate) {
  Fit all;
  for (const uint64_t seed : {1, 2, 3}) {
    const Fit f = fit_chain(config, width, rate, seed);
    all.gap += f.gap / 3, all.l1 += f.l1 / 3, all.norm += f.norm / 3;
  }
  MESSAGE(width << " numbers, " << std::string(config) << ": gap " << all.gap << ", L1 " << all.l1
                << ", norm " << all.norm);
  return all;
}

}  // namespace

TEST_CASE(
    "temperatures fit a chain with rows of different sparsity at equal steps to half the gap, "
    "with smaller weights") {
  const char* without = R"({"query": "off", "value": "off"})";
  const char* with = R"({"query": "both", "reader": "linear", "value": "off"})";
  const Fit plain = mean_fit(without, 16, 3e-3), selective = mean_fit(with, 16, 3e-3);
  CHECK(selective.gap < 0.5 * plain.gap);
  CHECK(selective.l1 < plain.l1);
  CHECK(selective.norm < plain.norm);
  // Fewer numbers than nodes: without temperatures no weights fit, however large.
  const Fit short_of = mean_fit(without, 8, 3e-2), short_with = mean_fit(with, 8, 3e-2);
  CHECK(short_with.gap < 0.5 * short_of.gap);
  CHECK(short_with.l1 < short_of.l1);
}

// Half of the tokens matter: the first number of a token is ±1.5 with noise, and the others, of
// those with +, are to be averaged.
namespace {

constexpr int64_t kCount = 16, kNumbers = 8;

struct Denoising {
  Tensor x, target, relevance;  // (B, N, D), (B, 1, D − 1), P(token matters | x) (B, N, 1)
};

Denoising denoising(int64_t batch) {
  constexpr double kMark = 1.5;
  std::vector<double> signs;
  for (int64_t i = 0; i < batch * kCount; ++i) signs.push_back(i % 2 == 0 ? 1 : -1);
  const Tensor sign = from_values(signs, {batch, kCount, 1}).to(DType::f32);
  const Tensor mark = sign * kMark + randn({batch, kCount, 1});
  const Tensor rest = randn({batch, kCount, kNumbers - 1});
  return {concat({mark, rest}, 2), sum(rest * (sign * 0.5 + 0.5), {1}, true) * (2.0 / kCount),
          sigmoid(mark * (2 * kMark))};
}

double denoising_error(const std::string& config) {
  RandomScope scope(7);
  SelectiveAttention layer(from_json<SelectiveConfig>(Json::parse(config)),
                           Geometry{.width = kNumbers,
                                    .heads = 1,
                                    .context = kCount,
                                    .bias = false,
                                    .init_std = 0.3,
                                    .output_init_std = 0.3});
  const auto error = [&](const Denoising& d) {
    const Tensor off = slice(layer(d.x, context(false)), 2, 1) - d.target;
    return mean(off * off);
  };
  trained(layer, 500, 1e-2, [&] { return error(denoising(64)); });
  NoGrad off;
  return error(denoising(2000)).item();
}

}  // namespace

TEST_CASE(
    "temperatures of values leave noise out of a mean nearly as well as Bayes, attention alone "
    "does not") {
  const double plain = denoising_error(R"({"query": "off", "value": "off"})");
  const double selective = denoising_error(R"({"query": "off", "reader": "linear"})");
  RandomScope scope(8);
  const Denoising d = denoising(2000);
  const Tensor rest = slice(d.x, 2, 1);
  const auto error = [&](const Tensor& estimate) {
    const Tensor off = estimate - d.target;
    return mean(off * off).item();
  };
  const double averaging = error(mean(rest, {1}, true));
  const double bayes = error(sum(rest * d.relevance, {1}, true) * (2.0 / kCount));
  MESSAGE("mean squared error: " << plain << " plain, " << selective << " selective, " << averaging
                                 << " averaging, " << bayes << " Bayes");
  CHECK(selective < plain);
  CHECK(selective < 1.5 * bayes);
}
