// What the sheet of CRATE must show of its attention.
#include "tessera/attention/mssa.h"

#include <doctest/doctest.h>

#include "tessera/attention/kv_cache.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/matmul.h"
#include "tessera/autograd/ops/softmax.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/tape.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/random.h"
#include "tessera/nn/check.h"
#include "tessera/tests/support.h"

using namespace tessera;
using namespace tessera::test;

namespace {

MssaAttention layer(MssaAttention::Config config = {}) {
  RandomScope scope(1);
  return {config, Geometry{.width = 8, .heads = 2, .context = 6}};
}

Tensor tokens() {
  RandomScope scope(2);
  return randn({2, 6, 8});
}

}  // namespace

TEST_SUITE("gradient") {
  TEST_CASE("subspace attention has right gradients, free and tied, causal, and as an exact step") {
    for (const MssaAttention::Config& config :
         {MssaAttention::Config{}, MssaAttention::Config{.tie_out = true},
          MssaAttention::Config{.tie_out = true, .bias = false, .exact_step = true}}) {
      for (bool causal : {false, true}) {
        auto m = layer(config);
        const auto run = [causal](Module& module, const TensorList& in) {
          return TensorList{static_cast<MssaAttention&>(module)(in[0], {.causal = causal})};
        };
        const auto result = check_module(m, run, {samples::normal({2, 6, 8})});
        CHECK_MESSAGE(result.ok, result.message);
      }
    }
  }
}

TEST_CASE("subspace attention attends from, to and over one tensor") {
  auto m = layer();
  NoGrad off;
  const Tensor x = tokens();
  const Tensor w = transpose(reshape(linear(x, m.in.weight), {2, 6, 2, 4}), 1, 2);
  const Tensor a = softmax(matmul(w, transpose(w, 2, 3)) * 0.5, -1);
  const Tensor expected = (*m.out)(reshape(transpose(matmul(a, w), 1, 2), {2, 6, 8}));
  CHECK(worst(m(x, {}), expected) < 1e-6);
}

TEST_CASE("tied to its input projection it gives what a free copy of it gives") {
  auto tied = layer({.tie_out = true});
  auto free = layer();
  CHECK(tied.parameter_count() == 64 + 8);
  CHECK(free.parameter_count() == 2 * 64 + 8);
  NoGrad off;
  kernels::copy(free.in.weight, tied.in.weight);
  kernels::copy(free.out->weight, transpose(tied.in.weight, 0, 1));
  kernels::copy(free.out->bias, tied.out_bias);
  CHECK(worst(tied(tokens(), {}), free(tokens(), {})) < 1e-6);
}

TEST_CASE("an exact step moves the tokens by a share of what attention gives") {
  auto plain = layer({.bias = false});
  auto step = layer({.bias = false, .exact_step = true, .kappa = 0.3, .epsilon = 0.5});
  NoGrad off;
  const double c = 0.3 * 4 / (6 * 0.25);
  const Tensor x = tokens();
  CHECK(worst(x + step(x, {}), x * (1 - c) + plain(x, {}) * c) < 1e-5);
}

TEST_CASE("the cache of subspace attention holds one tensor: half of the memory") {
  auto m = layer();
  NoGrad off;
  const Tensor x = tokens();
  const Tensor whole = m(x, {.causal = true});
  KvCache cache = m.make_cache(6, {});
  TensorList parts;
  for (auto [begin, end] : {std::pair<int64_t, int64_t>{0, 3}, {3, 4}, {4, 6}}) {
    parts.push_back(m(slice(x, 1, begin, end), {.causal = true, .cache = &cache}));
  }
  CHECK(worst(concat(parts, 1), whole) < 1e-5);
  CHECK(cache.key().is_same(cache.value()) == false);
  CHECK(cache.view().key.is_same(cache.view().value));
  CHECK(cache.bytes() == 2 * 6 * 8 * 4);
}
