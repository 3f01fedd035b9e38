// What the sheet of ConViT must show of its attention.
#include "tessera/attention/gpsa.h"

#include <doctest/doctest.h>

#include <cmath>

#include "tessera/attention/engines/dense.h"
#include "tessera/attention/self_attention.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/reduce.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/tape.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/kernels/fill.h"
#include "tessera/core/random.h"
#include "tessera/nn/check.h"
#include "tessera/tests/support.h"

using namespace tessera;
using namespace tessera::test;

namespace {

GpsaAttention layer(int64_t width, int64_t heads, int64_t grid, GpsaAttention::Config config = {}) {
  RandomScope scope(1);
  return {config, Geometry{.width = width,
                           .heads = heads,
                           .init_std = 0.4,
                           .output_init_std = 0.4,
                           .grid_height = grid,
                           .grid_width = grid}};
}

// Weights A (B, H, N, N) that the layer forms for x.
Tensor weights_of(GpsaAttention& m, const Tensor& x) {
  NoGrad off;
  const WeightsScope wanted;
  Tensor found;
  ProbeScope scope(m, [&](const std::string& path, const Tensor& value) {
    if (path == "weights") found = value;
  });
  m(x, {});
  return found;
}

// The output before the projection: W_o = 1, b_o = 0.
Tensor heads_of(GpsaAttention& m, const Tensor& x) {
  NoGrad off;
  kernels::copy(m.out.weight, eye(x.size(2)));
  return m(x, {});
}

// Mean over queries and heads of Σ_j A_ij ‖δ_ij‖, of weights (1, H, N, N) on a square grid.
double mean_distance(const Tensor& weights, int64_t grid) {
  const auto a = weights.to_vector<double>();
  const int64_t n = grid * grid;
  double total = 0;
  for (int64_t e = 0; e < weights.numel(); ++e) {
    const int64_t i = e / n % n, j = e % n;
    total += a[static_cast<size_t>(e)] * std::hypot(static_cast<double>(i / grid - j / grid),
                                                    static_cast<double>(i % grid - j % grid));
  }
  return total / static_cast<double>(weights.numel() / n);
}

}  // namespace

TEST_SUITE("gradient") {
  TEST_CASE("gated positional attention has right gradients, and its position bias has none") {
    auto m = layer(8, 4, 3);
    const auto run = [](Module& module, const TensorList& in) {
      return TensorList{static_cast<GpsaAttention&>(module)(in[0], {})};
    };
    const auto result = check_module(m, run, {samples::normal({2, 9, 8})});
    CHECK_MESSAGE(result.ok, result.message);
    m.zero_grad();
    const Tensor y = m(samples::normal({2, 9, 8}), {});
    sum(y * samples::normal(y.shape(), 3)).backward();
    for (double g : m.position.bias.grad().to_vector<double>()) CHECK(std::abs(g) < 1e-12);
    for (double g : m.gate.grad().to_vector<double>()) CHECK(std::abs(g) > 1e-9);
    CHECK(amax(m.position.weight.grad()).item() > 1e-9);
  }
}

TEST_CASE("narrow positional heads with an open gate are a convolution: each copies a neighbour") {
  constexpr int64_t kGrid = 5, kHeads = 9, kWidth = 18, kHeadDim = 2;
  auto m = layer(kWidth, kHeads, kGrid, {.locality_strength = 50, .gate_init = 1e4});
  RandomScope scope(2);
  const Tensor x = randn({2, kGrid * kGrid, kWidth});
  const auto y = heads_of(m, x).to_vector<double>(), v = x.to_vector<double>();
  const auto at = [&](int64_t b, int64_t row, int64_t column, int64_t channel) {
    return static_cast<size_t>(((b * kGrid + row) * kGrid + column) * kWidth + channel);
  };
  for (int64_t b = 0; b < 2; ++b) {
    for (int64_t row = 1; row < kGrid - 1; ++row) {
      for (int64_t column = 1; column < kGrid - 1; ++column) {
        for (int64_t c = 0; c < kWidth; ++c) {
          const int64_t h = c / kHeadDim, dy = h % 3 - 1, dx = h / 3 - 1;
          CHECK(y[at(b, row, column, c)] ==
                doctest::Approx(v[at(b, row + dy, column + dx, c)]).epsilon(1e-4));
        }
      }
    }
  }
}

TEST_CASE("a closed gate is plain attention with the same projections") {
  auto m = layer(8, 2, 3, {.gate_init = -1e4});
  RandomScope scope(2);
  const Tensor x = randn({2, 9, 8});
  const Tensor y = heads_of(m, x);
  NoGrad off;
  const auto heads = [](const Tensor& t) { return transpose(reshape(t, {2, 9, 2, 4}), 1, 2); };
  const TensorList qk = chunk(m.qk(x), 2, -1);
  const Tensor plain = dense_attention(heads(qk[0]), heads(qk[1]), heads(m.value(x))).output;
  CHECK(worst(y, reshape(transpose(plain, 1, 2), {2, 9, 8})) < 1e-6);
}

TEST_CASE("with an open gate the output does not depend on queries and keys") {
  auto m = layer(8, 2, 3, {.gate_init = 1e4});
  RandomScope scope(2);
  const Tensor x = randn({2, 9, 8});
  const Tensor y = m(x, {});
  sum(y * y).backward();
  for (double g : m.qk.weight.grad().to_vector<double>()) CHECK(g == 0);
  NoGrad off;
  kernels::fill(m.qk.weight, 1);
  CHECK(worst(m(x, {}), y.detach()) == 0);
}

TEST_CASE("rows of the mixed map sum to one, and the position map is the same for every image") {
  auto m = layer(8, 4, 3);
  RandomScope scope(2);
  const Tensor x = randn({3, 9, 8});
  const Tensor a = weights_of(m, x);
  CHECK(a.shape() == Shape{3, 4, 9, 9});
  CHECK(worst(sum(a, {3}), ones({3, 4, 9})) < 1e-5);
  CHECK(worst(select(a, 0, 0), select(a, 0, 1)) > 1e-3);
  kernels::fill(m.gate, 1e4);
  const Tensor p = weights_of(m, x);
  CHECK(worst(select(p, 0, 0), select(p, 0, 1)) == 0);
  CHECK(worst(select(p, 0, 0), select(p, 0, 2)) == 0);
}

TEST_CASE("the mean distance of the position map at the start is that of its bumps") {
  for (const auto& row : {std::tuple{4, 8, 0.937}, std::tuple{4, 14, 0.986},
                          std::tuple{9, 8, 1.189}, std::tuple{9, 14, 1.262}}) {
    INFO("heads " << std::get<0>(row) << ", grid " << std::get<1>(row));
    const auto [heads, grid, expected] = row;
    auto m = layer(4 * heads, heads, grid, {.gate_init = 1e4});
    const Tensor a = weights_of(m, zeros({1, grid * grid, 4 * heads}));
    CHECK(mean_distance(a, grid) == doctest::Approx(expected).epsilon(1e-3));
  }
  auto even = layer(4, 1, 8, {.locality_strength = 0, .gate_init = 1e4});
  CHECK(mean_distance(weights_of(even, zeros({1, 64, 4})), 8) ==
        doctest::Approx(4.136).epsilon(1e-3));
}

TEST_CASE("the position map costs one image's entries, whatever the batch") {
  auto m = layer(8, 2, 3);
  const Tensor x = zeros({5, 9, 8});
  const int64_t before = score_entries();
  m(x, {});
  CHECK(score_entries() - before == (5 + 1) * 2 * 81);
}

TEST_CASE("gated positional attention wants the patches of a grid alone") {
  CHECK_THROWS_WITH_AS(GpsaAttention({}, Geometry{.width = 8, .heads = 2}),
                       doctest::Contains("gpsa: wants the patches of a grid alone"), Error);
  CHECK_THROWS_WITH_AS(
      GpsaAttention(
          {}, Geometry{.width = 8, .heads = 2, .grid_height = 3, .grid_width = 3, .prefix = 1}),
      doctest::Contains("model.class_token_layer"), Error);
}
