#include "tessera/nn/moe.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/comparison.h"
#include "tessera/autograd/ops/grouped_matmul.h"
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

namespace {

constexpr FeedForwardGeometry kGeometry{.width = 6, .init_std = 0.5, .output_init_std = 0.5};

std::unique_ptr<Moe> make_moe(const Json& config) {
  RandomScope scope(5);
  return std::make_unique<Moe>(from_json<Moe::Config>(config), kGeometry);
}

Tensor input(int64_t rows = 20) {
  RandomScope scope(6);
  return randn({1, rows, kGeometry.width});
}

// The same function with every expert on every row.
Tensor all_experts(Moe& m, const Tensor& x, const LayerContext& context = {}) {
  const Tensor rows = flatten(x, 0, -2);
  const GateResult g = (*m.gate)(rows, context, Tensor());
  return reshape(combine_all(m.experts.all(rows), g.weights), x.shape());
}

TensorList gradients(Module& m, const Tensor& y) {
  m.zero_grad();
  sum(y * y).backward();
  TensorList list;
  for (const auto& [name, p] : m.parameters()) {
    list.push_back(p.grad().defined() ? p.grad() : zeros(p.shape()));
  }
  return list;
}

}  // namespace

TEST_CASE("computing the chosen experts alone gives what computing all of them gives") {
  for (const char* expert : {"mlp", "glu"}) {
    for (const int64_t k : {1, 2, 5}) {
      CAPTURE(expert);
      CAPTURE(k);
      auto m = make_moe({{"experts", 5}, {"k", k}, {"expert", expert}, {"balance_loss", 0}});
      const Tensor x = input();
      const int64_t before = grouped_matmul_rows();
      const Tensor sparse = (*m)(x, {});
      CHECK(grouped_matmul_rows() - before == 20 * k * (std::string(expert) == "glu" ? 3 : 2));
      const Tensor dense = all_experts(*m, x);
      CHECK(test::worst(sparse, dense) < 1e-6);
      const TensorList a = gradients(*m, sparse), b = gradients(*m, dense);
      for (size_t i = 0; i < a.size(); ++i) {
        CHECK(test::worst(a[i], b[i]) < 1e-5 * (1 + test::worst(b[i], zeros(b[i].shape()))));
      }
    }
  }
}

TEST_CASE("a mixture of one expert is that expert") {
  auto m = make_moe({{"experts", 1}, {"k", 1}});
  const Tensor x = input();
  CHECK(test::worst((*m)(x, {}), reshape(m->experts.all(flatten(x, 0, -2)), x.shape())) < 1e-6);
}

TEST_CASE("experts without rows are skipped and receive no gradient") {
  auto m = make_moe({{"experts", 4}, {"k", 1}, {"balance_loss", 0}});
  auto named = m->parameters();
  {
    NoGrad off;
    for (auto& [name, p] : named) {  // expert 2 wins everywhere
      if (name == "gate.score.bias") {
        kernels::copy(p, tensor({0, 0, 100, 0}, {4}));
      }
    }
  }
  const Tensor x = input();
  const Tensor y = (*m)(x, {});
  CHECK(test::worst(y, reshape(select(m->experts.all(flatten(x, 0, -2)), 0, 2), x.shape())) < 1e-6);
  sum(y * y).backward();
  const Tensor g = m->experts.up.grad();
  CHECK(test::worst(select(g, 0, 0), zeros({6, 24})) == 0);
  CHECK(test::worst(select(g, 0, 2), zeros({6, 24})) > 1e-3);
}

TEST_CASE("with a capacity an expert takes the first rows and the rest adds nothing") {
  auto m = make_moe({{"experts", 2}, {"k", 1}, {"capacity", 0.5}});
  auto free = make_moe({{"experts", 2}, {"k", 1}});
  const Tensor x = input(12);  // ⌈0.5 · 12 / 2⌉ = 3 rows per expert
  const Tensor y = reshape((*m)(x, {}), {12, 6}), whole = reshape((*free)(x, {}), {12, 6});
  const GateResult g = (*m->gate)(reshape(x, {12, 6}), {}, Tensor());
  const auto chosen = g.indices.to_vector<int64_t>();
  int64_t taken[2] = {0, 0};
  for (int64_t t = 0; t < 12; ++t) {
    const bool fits = taken[chosen[static_cast<size_t>(t)]]++ < 3;
    CHECK(test::worst(select(y, 0, t), fits ? select(whole, 0, t) : zeros({6})) < 1e-6);
  }
  CHECK(std::max(taken[0], taken[1]) > 3);
}

TEST_CASE("second choices are dropped before first ones") {
  const Tensor indices = from_values(std::vector<int64_t>{0, 1, 1, 0, 1, 2}, {3, 2});
  const Dispatch d = dispatch(ones({3, 3}), indices, 1);
  CHECK(d.experts.to_vector<int64_t>() == std::vector<int64_t>{0, 1, 2});
  CHECK(d.rows.to_vector<int64_t>() == std::vector<int64_t>{0, 1, 2});
  CHECK(d.offsets.to_vector<int64_t>() == std::vector<int64_t>{0, 1, 2, 3});
}

TEST_CASE("the balance loss is its weight when experts are equal and n times it when one has all") {
  const auto balance = [](double bias) {
    auto m = make_moe({{"experts", 4}, {"k", 1}, {"balance_loss", 0.5}});
    NoGrad off;
    for (auto& [name, p] : m->parameters()) {
      if (name == "gate.score.weight") kernels::copy(p, zeros(p.shape()));
      if (name == "gate.score.bias") kernels::copy(p, tensor({bias, 0, 0, 0}, {4}));
    }
    GradMode on(true);
    Auxiliary auxiliary;
    (*m)(input(), {.auxiliary = &auxiliary});
    REQUIRE(auxiliary.losses.size() == 1);
    return auxiliary.losses[0].item();
  };
  CHECK(balance(0) == doctest::Approx(0.5));
  CHECK(balance(100) == doctest::Approx(2.0));
}

TEST_CASE("the z-loss is the mean square of the logits' logsumexp") {
  auto m = make_moe({{"experts", 4}, {"k", 2}, {"balance_loss", 0}, {"z_loss", 0.1}});
  {
    NoGrad off;
    for (auto& [name, p] : m->parameters()) {
      if (name.starts_with("gate.")) kernels::copy(p, zeros(p.shape()));
    }
  }
  Auxiliary auxiliary;
  (*m)(input(), {.auxiliary = &auxiliary});
  REQUIRE(auxiliary.losses.size() == 1);
  CHECK(auxiliary.losses[0].item() == doctest::Approx(0.1 * std::log(4.0) * std::log(4.0)));
  auto hash = make_moe({{"gate", "hash"}, {"z_loss", 0.1}, {"k", 1}});
  LayerContext context{.tokens = zeros({1, 20}, {DType::i64, {}})};
  CHECK_THROWS_WITH_AS((*hash)(input(), context), doctest::Contains("hash"), Error);
}

TEST_CASE("evaluation shows the load of experts, the entropy of the gate and the experts used") {
  auto m = make_moe({{"experts", 4}, {"k", 2}});
  m->eval();
  Auxiliary auxiliary;
  (*m)(input(), {.auxiliary = &auxiliary});
  const auto load = auxiliary.figures.at("expert_load")[0].to_vector<double>();
  CHECK(load.size() == 4);
  CHECK(load[0] + load[1] + load[2] + load[3] == doctest::Approx(1));
  CHECK(auxiliary.figures.at("experts_used")[0].item() == doctest::Approx(2));
  CHECK(auxiliary.figures.at("within_k")[0].item() == 1);
  CHECK(auxiliary.figures.at("gate_entropy")[0].item() <= std::log(2.0) + 1e-4);
}

TEST_CASE("the hash gate sends a token always to the same experts") {
  auto m = make_moe({{"gate", "hash"}, {"experts", 6}, {"k", 2}});
  const Tensor ids = from_values(std::vector<int64_t>{3, 9, 3, 4096 + 3}, {4});
  RandomScope scope(1);
  const GateResult g = (*m->gate)(randn({4, 6}), {}, ids);
  const auto at = g.indices.to_vector<int64_t>();
  CHECK(at[0] != at[1]);
  for (size_t i : {4u, 6u}) {
    CHECK(at[i] == at[0]);
    CHECK(at[i + 1] == at[1]);
  }
  CHECK(test::worst(sum(g.weights, {1}), ones({4})) < 1e-6);
  CHECK_THROWS_WITH_AS((*m)(input(), {}), doctest::Contains("hash"), Error);
}

TEST_CASE("k experts of fewer are refused") {
  CHECK_THROWS_WITH(make_moe({{"experts", 2}, {"k", 3}}), doctest::Contains("cannot be chosen"));
}

TEST_CASE("experts split off a dense network take exactly the neurons that importance selects") {
  // By importance: 4, 0, 2, 5, 1, 3. Two shared, then rank r goes to expert r mod 2.
  const auto dealt = deal_neurons({5, 2, 4, 1, 9, 3}, 2, 2, 3);
  CHECK(dealt == std::vector<std::vector<int64_t>>{{4, 0, 2}, {4, 0, 5}});
  CHECK_THROWS_WITH_AS(deal_neurons({1, 2, 3}, 2, 1, 3), doctest::Contains("3 neurons"), Error);

  RandomScope scope(9);
  Mlp dense({.hidden = 6}, kGeometry);
  auto m = make_moe({{"experts", 2}, {"k", 1}, {"hidden", 3}});
  m->experts.take(dense, dealt);
  const Tensor x = reshape(input(), {20, 6});
  for (int64_t e = 0; e < 2; ++e) {  // the dense network without the other neurons
    Mlp cut({.hidden = 6}, kGeometry);
    cut.load_state(dense.state());
    NoGrad off;
    for (int64_t h = 0; h < 6; ++h) {
      const auto& own = dealt[static_cast<size_t>(e)];
      if (std::find(own.begin(), own.end(), h) == own.end()) {
        kernels::copy(select(cut.down.weight.detach(), 1, h), zeros({6}));
      }
    }
    CHECK(test::worst(select(m->experts.all(x), 0, e), cut(x, {})) < 1e-6);
  }
}

TEST_CASE("one expert that holds all neurons is the dense network") {
  RandomScope scope(9);
  Mlp dense({.hidden = 6}, kGeometry);
  auto m = make_moe({{"experts", 1}, {"k", 1}, {"hidden", 6}, {"gate", "softmax"}});
  m->experts.take(dense, deal_neurons({5, 2, 4, 1, 9, 3}, 1, 0, 6));
  CHECK(test::worst((*m)(input(), {}), dense(input(), {})) < 1e-6);
}
