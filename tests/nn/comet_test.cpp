// The gates of COMET (sheet 62): what the paper says of them, as properties.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "tessera/autograd/gradcheck.h"
#include "tessera/autograd/ops/activation.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/comparison.h"
#include "tessera/autograd/ops/elementwise.h"
#include "tessera/autograd/ops/indexing.h"
#include "tessera/autograd/ops/matmul.h"
#include "tessera/autograd/ops/reduce.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/tape.h"
#include "tessera/config/fields.h"
#include "tessera/config/json.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/random.h"
#include "tessera/nn/check.h"
#include "tessera/nn/gate.h"
#include "tessera/nn/soft_trees.h"
#include "tessera/tests/support.h"

using namespace tessera;

namespace {

std::unique_ptr<Gate> make_gate(const Json& config, int64_t experts, int64_t k, int64_t width = 4) {
  RandomScope scope(7);
  return from_json<Choice<Gate>>(config).build(
      GateGeometry{.width = width, .experts = experts, .k = k});
}

Tensor rows(int64_t count, int64_t width = 4, uint64_t seed = 8) {
  RandomScope scope(seed);
  return randn({count, width});
}

Tensor parameter_of(Module& m, const std::string& name) {
  for (auto& [path, p] : m.parameters()) {
    if (path == name) return p;
  }
  fail("no parameter {}", name);
}

void set(Module& m, const std::string& name, const Tensor& values) {
  NoGrad off;
  kernels::copy(parameter_of(m, name), values);
}

void scale(Module& m, const std::string& name, double factor) {
  NoGrad off;
  const Tensor p = parameter_of(m, name);
  kernels::copy(p, p.detach() * factor);
}

GateResult run(Gate& gate, const Tensor& x, const LayerContext& context = {}) {
  return gate(x, context, Tensor());
}

double at(const Tensor& x, int64_t i) {
  return x.to_vector<double>()[static_cast<size_t>(i)];
}

}  // namespace

TEST_CASE("the smooth step and its derivative are continuous where it becomes flat") {
  for (const double gamma : {0.01, 1.0, 10.0}) {
    const double edge = gamma / 2, near = edge * (1 - 1e-7), far = edge * (1 + 1e-7);
    Tensor x = tensor({-far, -near, 0, near, far}, {5}, DType::f64);
    x.set_requires_grad();
    const Tensor y = smooth_step(x, gamma);
    CHECK(at(y, 0) == 0);
    CHECK(at(y, 1) == doctest::Approx(0));
    CHECK(at(y, 2) == doctest::Approx(0.5));
    CHECK(at(y, 3) == doctest::Approx(1));
    CHECK(at(y, 4) == 1);
    y.backward(ones({5}, {DType::f64, {}}));
    CHECK(at(x.grad(), 0) == 0);
    CHECK(std::abs(at(x.grad(), 1)) * gamma < 1e-5);
    CHECK(at(x.grad(), 2) == doctest::Approx(1.5 / gamma));
    CHECK(std::abs(at(x.grad(), 3)) * gamma < 1e-5);
    CHECK(at(x.grad(), 4) == 0);
  }
}

TEST_SUITE("gradient") {
  TEST_CASE(
      "the comet and dselect_k gates have right gradients for any number of experts and trees") {
    for (const char* type : {"comet", "dselect_k"}) {
      for (const int64_t n : {2, 3, 5, 8}) {
        for (const int64_t k : {1, 2, 4}) {
          CAPTURE(type);
          CAPTURE(n);
          CAPTURE(k);
          auto gate = make_gate({{"type", type}, {"gamma", 2.0}, {"entropy", 0.3}}, n, k);
          for (auto& [name, p] : gate->parameters()) scale(*gate, name, 20);
          Auxiliary auxiliary;
          const GradcheckResult r = check_module(
              *gate,
              [&](Module& m, const TensorList& in) {
                auxiliary = {};
                TensorList out = {
                    static_cast<Gate&>(m)(in[0], {.auxiliary = &auxiliary}, Tensor()).weights};
                for (const Tensor& loss : auxiliary.losses) out.push_back(loss * 1e-3);
                return out;
              },
              {samples::normal({5, 4})});
          CHECK_MESSAGE(r.ok, r.message);
        }
      }
    }
  }

  TEST_CASE("a soft permutation has right gradients through all Sinkhorn iterations") {
    RandomScope scope(3);
    const GradcheckResult r =
        gradcheck([](const TensorList& in) { return TensorList{exp(sinkhorn(in[0], 20))}; },
                  {samples::normal({2, 4, 4})});
    CHECK_MESSAGE(r.ok, r.message);
  }
}

TEST_CASE("the weights of every gate sum to one") {
  for (const char* type : {"topk", "softmax", "comet", "dselect_k"}) {
    for (const int64_t n : {2, 4, 8}) {
      CAPTURE(type);
      auto gate = make_gate({{"type", type}}, n, 2);
      CHECK(test::worst(sum(run(*gate, rows(50)).weights, {1}), ones({50})) < 1e-5);
    }
  }
}

TEST_CASE("conditional evaluation of trees gives the values and gradients of full evaluation") {
  for (const int64_t n : {2, 3, 5, 8}) {
    CAPTURE(n);
    RandomScope scope(4);
    SoftTrees trees(4, n, 3, 1, true);
    for (auto& [name, p] : trees.parameters()) scale(trees, name, 60);
    const Tensor x = rows(40);
    const auto gradients = [&](const TreeProbabilities& p) {
      trees.zero_grad();
      Tensor w = randn(p.leaves.shape());
      sum(p.leaves * w).backward();
      return TensorList{trees.nodes.weight.grad(), trees.nodes.bias.grad()};
    };
    TensorList full_gradients, some_gradients;
    const TreeProbabilities full = trees(x), some = trees.conditional(x);
    CHECK(test::worst(full.leaves, some.leaves) < 1e-6);
    CHECK(test::worst(full.inner, some.inner) < 1e-6);
    {
      RandomScope same(9);
      full_gradients = gradients(full);
    }
    {
      RandomScope same(9);
      some_gradients = gradients(some);
    }
    for (size_t i = 0; i < 2; ++i) CHECK(test::worst(full_gradients[i], some_gradients[i]) < 1e-4);
    CHECK(test::worst(full_gradients[0], zeros(full_gradients[0].shape())) > 1e-3);
  }
}

TEST_CASE("fewer nodes are evaluated as trees harden") {
  int64_t before_hard = 0;
  for (const double factor : {1.0, 100.0, 1e5}) {
    RandomScope scope(4);
    SoftTrees trees(4, 16, 2, 1, true);
    for (auto& [name, p] : trees.parameters()) scale(trees, name, factor);
    const int64_t before = tree_nodes_evaluated();
    trees.conditional(rows(100));
    const int64_t count = tree_nodes_evaluated() - before;
    if (factor == 1.0) CHECK(count == 100 * 2 * 15);  // all
    if (factor > 1.0) CHECK(count < before_hard);
    if (factor == 1e5) CHECK(count < 100 * 2 * 5);  // a path of 4 of 15
    before_hard = count;
  }
}

TEST_CASE("leaves are numbered from left to right") {
  // s_v = 1 at every node but v: the leaf that is reached tells the order.
  const auto reached = [](int64_t n, const std::vector<int64_t>& right) {
    RandomScope scope(1);
    SoftTrees trees(1, n, 1, 1, true);
    set(trees, "nodes.weight", zeros({n - 1, 1}));
    std::vector<float> bias(static_cast<size_t>(n - 1), 10);
    for (const int64_t v : right) bias[static_cast<size_t>(v)] = -10;
    set(trees, "nodes.bias", from_values(bias, {n - 1}));
    return argmax(trees(ones({1, 1})).leaves, -1).item<int64_t>();
  };
  // n = 3: node 0 has the children 1 (with the leaves 3, 4) and 2.
  CHECK(reached(3, {}) == 0);
  CHECK(reached(3, {1}) == 1);
  CHECK(reached(3, {0}) == 2);
  // n = 5: leaves 7, 8 | 4 below node 1; 5, 6 below node 2.
  CHECK(reached(5, {3}) == 1);
  CHECK(reached(5, {1}) == 2);
  CHECK(reached(5, {0}) == 3);
  CHECK(reached(5, {0, 2}) == 4);
  // n = 6: leaves 7, 8 | 9, 10 below node 1; 5, 6 below node 2.
  CHECK(reached(6, {1}) == 2);
  CHECK(reached(6, {1, 4}) == 3);
  CHECK(reached(6, {0}) == 4);
  CHECK(reached(6, {0, 2}) == 5);
}

TEST_CASE("a saturated tree is a lookup: every row is routed to one leaf of each tree") {
  auto gate = make_gate({{"type", "comet"}}, 8, 2);
  scale(*gate, "trees.nodes.weight", 1e9);
  scale(*gate, "trees.nodes.bias", 1e9);
  const Tensor x = rows(100);
  const Tensor w = run(*gate, x).weights;
  const Tensor z = reshape(
      linear(x, parameter_of(*gate, "trees.nodes.weight"), parameter_of(*gate, "trees.nodes.bias")),
      {100, 7, 2});
  const auto s = z.to_vector<double>();
  const auto used = w.to_vector<double>();
  for (int64_t r = 0; r < 100; ++r) {
    std::vector<bool> wanted(8, false);
    for (int64_t t = 0; t < 2; ++t) {
      int64_t v = 0;
      while (v < 7) v = 2 * v + (s[static_cast<size_t>((r * 7 + v) * 2 + t)] > 0 ? 1 : 2);
      wanted[static_cast<size_t>(v - 7)] = true;  // of a full tree heap order is left to right
    }
    for (int64_t e = 0; e < 8; ++e) {
      CHECK((used[static_cast<size_t>(r * 8 + e)] > 0) == wanted[static_cast<size_t>(e)]);
    }
  }
}

TEST_CASE("trees compete: the weights are one softmax over the leaves of all trees") {
  auto gate = make_gate({{"type", "comet"}}, 2, 2, 1);
  set(*gate, "trees.nodes.weight", zeros({2, 1}));
  set(*gate, "trees.nodes.bias", tensor({10, -10}, {2}));  // tree 0 left, tree 1 right
  set(*gate, "leaf.weight", zeros({4, 1}));
  set(*gate, "leaf.bias", tensor({3, 0, 0, 1}, {4}));  // scores of (tree, leaf)
  const Tensor w = run(*gate, ones({1, 1})).weights;
  const double p = 1 / (1 + std::exp(1.0 - 3.0));
  CHECK(at(w, 0) == doctest::Approx(p));
  CHECK(at(w, 1) == doctest::Approx(1 - p));
}

TEST_CASE("dselect_k of one selector reaches each of eight one-hot outputs, the first bit first") {
  for (int64_t code = 0; code < 8; ++code) {
    auto gate = make_gate({{"type", "dselect_k"}}, 8, 1, 1);
    set(*gate, "codes.weight", zeros({3, 1}));
    set(*gate, "codes.bias",
        tensor({code & 4 ? 10. : -10., code & 2 ? 10. : -10., code & 1 ? 10. : -10.}, {3}));
    const auto w = run(*gate, ones({1, 1})).weights.to_vector<double>();
    for (int64_t i = 0; i < 8; ++i) CHECK(w[static_cast<size_t>(i)] == (i == code ? 1 : 0));
  }
}

TEST_CASE("codes of no expert cost dselect_k a loss unless every code is one") {
  for (const int64_t n : {6, 8}) {
    auto gate = make_gate({{"type", "dselect_k"}}, n, 2);
    Auxiliary auxiliary;
    run(*gate, rows(10), {.auxiliary = &auxiliary});
    CHECK(auxiliary.losses.size() == (n == 6 ? 1 : 0));
    if (n == 6) CHECK(auxiliary.losses[0].item() > 20);  // 1 / Σ ≥ 1 for 10 rows of 2 selectors
  }
}

TEST_CASE("sinkhorn's matrices are doubly stochastic") {
  RandomScope scope(2);
  for (const double temperature : {1.0, 0.1, 0.02}) {
    Tensor omega = rand({1, 8, 8}, DType::f64) * 0.1 - 0.05;
    const Tensor p = exp(sinkhorn(omega / temperature, 150));
    CHECK(test::worst(sum(p, {1}), ones({1, 8}, {DType::f64, {}})) < 1e-3);
    CHECK(test::worst(sum(p, {2}), ones({1, 8}, {DType::f64, {}})) < 1e-3);
  }
}

TEST_CASE("the best assignment is that of trying all") {
  Generator random(5);
  for (int64_t n = 1; n <= 7; ++n) {
    for (int trial = 0; trial < 5; ++trial) {
      std::vector<double> scores(static_cast<size_t>(n * n));
      for (double& s : scores) s = random.normal();
      const auto total = [&](const std::vector<int64_t>& pi) {
        double sum = 0;
        for (int64_t i = 0; i < n; ++i) {
          sum += scores[static_cast<size_t>(i * n + pi[static_cast<size_t>(i)])];
        }
        return sum;
      };
      std::vector<int64_t> pi(static_cast<size_t>(n));
      std::iota(pi.begin(), pi.end(), 0);
      double best = -1e9;
      do {
        best = std::max(best, total(pi));
      } while (std::next_permutation(pi.begin(), pi.end()));
      std::vector<int64_t> found = best_assignment(scores, n);
      CHECK(total(found) == doctest::Approx(best));
      std::sort(found.begin(), found.end());
      std::iota(pi.begin(), pi.end(), 0);
      CHECK(found == pi);
    }
  }
  CHECK_THROWS_WITH_AS(best_assignment(std::vector<double>{1, NAN, NAN, NAN}, 2),
                       doctest::Contains("best_assignment"), Error);
}

TEST_CASE("before it has a soft permutation a search is the identity: the same as no search") {
  for (const char* type : {"topk", "softmax", "comet", "dselect_k"}) {
    CAPTURE(type);
    auto plain = make_gate({{"type", type}}, 6, 2);
    auto searched = make_gate({{"type", type}, {"search", {{"steps", 10}}}}, 6, 2);
    searched->eval();
    for (auto& [name, p] : plain->parameters()) set(*searched, name, p);
    const Tensor x = rows(20);
    CHECK(test::worst(run(*plain, x).weights, run(*searched, x).weights) < 1e-6);
  }
}

TEST_CASE(
    "a searched permutation is soft while it learns, and hard from then on and in evaluation") {
  auto gate = make_gate({{"type", "topk"}, {"search", {{"steps", 10}}}}, 5, 2);
  const Tensor x = rows(20);
  Auxiliary auxiliary;
  const GateResult soft = run(*gate, x, {.step = 3, .auxiliary = &auxiliary});
  CHECK(soft.dense);
  CHECK(auxiliary.losses.size() == 1);  // the entropy
  CHECK(std::isfinite(auxiliary.losses[0].item()));
  CHECK_FALSE(gate->all_capturable());
  const GateResult late = run(*gate, x, {.step = 10});
  gate->eval();
  const GateResult hard = run(*gate, x, {.step = 3});
  CHECK(test::worst(late.weights, hard.weights) == 0);
  CHECK(sum(gt(hard.weights, 0).to(DType::i64)).item<int64_t>() == 40);  // two experts a row
  CHECK(test::worst(gather(hard.weights, 1, hard.indices), zeros({20, 2})) > 0.1);
  CHECK(sum(gather(hard.weights, 1, hard.indices)).item() == doctest::Approx(20));
}

TEST_CASE("a permutation moves the weight of leaf i to expert columns[i]") {
  RandomScope scope(1);
  const SearchConfig c{.steps = 10};
  PermutationSearch search(c, 3);
  NoGrad off;
  kernels::copy(search.soft, tensor({0, 0.9, 0.1, 0.2, 0.1, 0.7, 0.8, 0, 0.2}, {1, 3, 3}));
  CHECK(search.columns().to_vector<int64_t>() == std::vector<int64_t>{1, 2, 0});
  const Tensor g = tensor({0.5, 0.3, 0.2}, {1, 3}, DType::f64);
  const Tensor moved = matmul(g, select(search({.step = 10}), 0, 0));
  CHECK(test::worst(moved, tensor({0.2, 0.5, 0.3}, {1, 3}, DType::f64)) < 1e-12);
}

TEST_CASE("local search finds two swapped experts again within 200 steps") {
  // Experts are constants, and row i wants the i-th. The search starts from the identity; then two
  // experts change places, and only Ω learns, by Adam.
  const int64_t n = 8;
  RandomScope scope(11);
  PermutationSearch search({.steps = 1000}, n);
  Tensor m = zeros({1, n, n}), v = zeros({1, n, n});
  const Tensor wanted = randn({n, 16}, DType::f64);
  const std::vector<int64_t> swapped = {0, 1, 5, 3, 4, 2, 6, 7};
  const Tensor experts = index_select(wanted, 0, from_values(swapped, {n}));
  kernels::copy(search.omega, eye(n) * 0.01 + rand({1, n, n}) * 0.002);
  for (int step = 0; step < 200; ++step) {
    search.zero_grad();
    const Tensor pi = select(search({.step = step, .steps = 1000}), 0, 0);
    if (step == 0) {
      CHECK(search.columns().to_vector<int64_t>() == std::vector<int64_t>{0, 1, 2, 3, 4, 5, 6, 7});
    }
    mean(square(matmul(pi, experts) - wanted)).backward();
    NoGrad off;
    const Tensor g = search.omega.grad();
    CHECK(all(isfinite(g)).item() == 1);
    m = m * 0.9 + g * 0.1;
    v = v * 0.999 + square(g) * 0.001;
    const Tensor move =
        (m / (1 - std::pow(0.9, step + 1))) / (sqrt(v / (1 - std::pow(0.999, step + 1))) + 1e-8);
    kernels::copy(search.omega, search.omega.detach() - move * 1e-3);
  }
  CHECK(search.columns().to_vector<int64_t>() == swapped);
}
