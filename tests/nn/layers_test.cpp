#include <doctest/doctest.h>

#include <cmath>

#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/core/create.h"
#include "tessera/core/random.h"
#include "tessera/nn/check.h"
#include "tessera/nn/feed_forward.h"
#include "tessera/nn/gru.h"
#include "tessera/nn/init.h"
#include "tessera/nn/loss.h"
#include "tessera/nn/positions.h"

using namespace tessera;

namespace {

double mean_square(const Tensor& x) {
  double total = 0;
  for (double v : x.to_vector<double>()) total += v * v;
  return total / static_cast<double>(x.numel());
}

std::unique_ptr<Positions> positions(const char* type) {
  return Choice<Positions>(type).build(
      PositionGeometry{.width = 8, .context = 16, .heads = 4, .head_dim = 8});
}

}  // namespace

TEST_SUITE("gradient") {
  TEST_CASE("every registered layer has right gradients for its inputs and all parameters") {
    for (const LayerInfo* layer : LayerRegistry::instance().all()) {
      RandomScope scope(1);
      const auto module = layer->make();
      const auto result = check_module(*module, layer->run, layer->inputs());
      CHECK_MESSAGE(result.ok, layer->name << ": " << result.message);
    }
  }
}

TEST_CASE("initialisers have the deviation they promise") {
  RandomScope scope(2);
  CHECK(std::sqrt(mean_square(init::normal({200, 200}, 0.02))) ==
        doctest::Approx(0.02).epsilon(0.02));
  CHECK(mean_square(init::kaiming_normal({100, 50})) == doctest::Approx(2.0 / 50).epsilon(0.05));
  CHECK(mean_square(init::xavier_uniform({60, 40})) == doctest::Approx(2.0 / 100).epsilon(0.05));
  const Tensor q = init::orthogonal(3, 5);
  const auto v = q.to_vector<double>();
  for (int a = 0; a < 3; ++a) {
    for (int b = 0; b < 3; ++b) {
      double dot = 0;
      for (int i = 0; i < 5; ++i)
        dot += v[static_cast<size_t>(a * 5 + i)] * v[static_cast<size_t>(b * 5 + i)];
      CHECK(dot == doctest::Approx(a == b ? 1 : 0).epsilon(1e-5));
    }
  }
}

TEST_CASE("the same random scope gives the same initial weights") {
  RandomScope a(4);
  const auto first = init::normal({5}, 1).to_vector<float>();
  const auto second = init::normal({5}, 1).to_vector<float>();
  RandomScope b(4);
  CHECK(init::normal({5}, 1).to_vector<float>() == first);
  CHECK(first != second);
}

TEST_CASE("rotary scores depend on the difference of positions only") {
  const auto rotary = positions("rotary");
  RandomScope scope(3);
  const Tensor q = randn({1, 1, 1, 8});
  const Tensor k = randn({1, 1, 1, 8});
  auto score = [&](int64_t i, int64_t j) {
    const Tensor qi = rotary->rotate(q, from_values(std::vector<int64_t>{i}, {1}));
    const Tensor kj = rotary->rotate(k, from_values(std::vector<int64_t>{j}, {1}));
    return sum(qi * kj).item();
  };
  CHECK(score(3, 1) == doctest::Approx(score(12, 10)).epsilon(1e-5));
  CHECK(score(3, 1) != doctest::Approx(score(3, 2)).epsilon(1e-5));
}

TEST_CASE("the slopes of alibi halve from head to head as often as there are heads in eight") {
  const auto slopes = positions("alibi")->score_bias({}).table.to_vector<double>();
  CHECK(slopes == std::vector<double>{0.25, 0.0625, 0.015625, 0.00390625});
}

TEST_CASE("sinusoidal rows are points on unit circles") {
  const auto sinusoidal = positions("sinusoidal");
  const auto row = sinusoidal->embed(zeros({1, 3, 8}), arange(5, 8)).to_vector<double>();
  for (size_t i = 0; i < row.size(); i += 2) {
    CHECK(row[i] * row[i] + row[i + 1] * row[i + 1] == doctest::Approx(1).epsilon(1e-6));
  }
}

TEST_CASE("rows may have positions of their own") {
  RandomScope scope(3);
  const Tensor x = randn({2, 3, 8}), heads = randn({2, 4, 3, 8});
  const std::vector<int64_t> first = {0, 1, 2}, second = {7, 2, 5};
  const Tensor both = from_values(std::vector<int64_t>{0, 1, 2, 7, 2, 5}, {2, 3});
  for (const char* type : {"none", "learned", "sinusoidal", "rotary", "alibi"}) {
    CAPTURE(type);
    const auto p = positions(type);
    const Tensor embedded = p->embed(x, both), rotated = p->rotate(heads, both);
    for (int64_t b = 0; b < 2; ++b) {
      const Tensor at = from_values(b == 0 ? first : second, {3});
      CHECK(slice(embedded, 0, b, b + 1).to_vector<float>() ==
            p->embed(slice(x, 0, b, b + 1), at).to_vector<float>());
      CHECK(slice(rotated, 0, b, b + 1).to_vector<float>() ==
            p->rotate(slice(heads, 0, b, b + 1), at).to_vector<float>());
    }
  }
}

TEST_CASE("a GRU keeps its state where the mask is zero, and reads backwards") {
  RandomScope scope(6);
  const Gru gru(3, 2);
  const Tensor x = randn({1, 4, 3});
  const Tensor mask = tensor({1, 0, 0, 1}, {1, 4, 1});
  const auto y = gru(x, {}, false, mask).to_vector<float>();
  CHECK(y[0] == y[2]);
  CHECK(y[1] == y[5]);
  const auto forward = gru(x).to_vector<float>();
  const auto backward = flip(gru(flip(x, {1}), {}, true), {1}).to_vector<float>();
  for (size_t i = 0; i < forward.size(); ++i) CHECK(forward[i] == doctest::Approx(backward[i]));
}

TEST_CASE("losses are chosen by name") {
  const Tensor logits = zeros({2, 4});
  const auto loss = Choice<Loss>("cross_entropy").build();
  CHECK((*loss)(logits, from_values(std::vector<int64_t>{1, 3}, {2})).item() ==
        doctest::Approx(std::log(4.0)));
  CHECK((*Choice<Loss>("mse").build())(ones({3}), zeros({3})).item() == 1);
}

TEST_CASE("SwiGLU as one pointwise function equals its parts") {
  RandomScope scope(8);
  const FeedForwardGeometry g{.width = 6, .init_std = 0.5, .output_init_std = 0.5};
  auto choice = Choice<FeedForward>("glu");
  auto glu = choice.build(g);
  auto& parts = dynamic_cast<Glu&>(*glu);
  const Tensor x = randn({3, 6});
  const Tensor by_hand = parts.down(activation("silu")(parts.gate(x)) * parts.up(x));
  const auto a = (*glu)(x, {}).to_vector<float>();
  const auto b = by_hand.to_vector<float>();
  for (size_t i = 0; i < a.size(); ++i) CHECK(a[i] == doctest::Approx(b[i]).epsilon(1e-5));
}
