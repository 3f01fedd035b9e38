#include "tessera/attention/engines/block_sparse.h"

#include <doctest/doctest.h>

#include <cmath>

#include "tessera/attention/engines/dense.h"
#include "tessera/attention/engines/scores.h"
#include "tessera/attention/merge.h"
#include "tessera/attention/patterns.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/tape.h"
#include "tessera/core/create.h"
#include "tessera/core/parallel.h"
#include "tessera/core/random.h"
#include "tessera/tests/attention/support.h"

using namespace tessera;
using namespace tessera::test;

namespace {

Tensor random_blocks(const Shape& shape, double share) {
  std::vector<uint8_t> bytes;
  for (float v : rand(shape).to_vector<float>()) bytes.push_back(v < share ? 1 : 0);
  return from_values(bytes, shape);
}

// Output, logsumexp and gradients of a sum over both that weighs every element differently.
template <class Engine>
TensorList results(const Inputs& in, const Engine& engine, bool with_lse = true) {
  const AttentionResult r = engine(in.q, in.k, in.v);
  RandomScope same(9);
  Tensor loss = sum(r.output * randn(r.output.shape(), DType::f64));
  if (with_lse) loss = loss + sum(r.logsumexp * r.logsumexp);
  TensorList g = grad({loss}, {in.q, in.k, in.v});
  g.push_back(r.output);
  g.push_back(r.logsumexp);
  return g;
}

void check_equal(const TensorList& a, const TensorList& b, double bound = 1e-10) {
  for (size_t i = 0; i < a.size(); ++i) CHECK(worst(a[i], b[i]) < bound);
}

auto sparse(const BlockMask& mask, const AttentionOptions& o = {}) {
  return [mask, o](const Tensor& q, const Tensor& k, const Tensor& v) {
    return block_sparse_attention(q, k, v, mask, o);
  };
}
auto dense(const AttentionOptions& o) {
  return [o](const Tensor& q, const Tensor& k, const Tensor& v) {
    return dense_attention(q, k, v, o);
  };
}

}  // namespace

TEST_CASE("the block-sparse engine equals its reference in values and gradients") {
  RandomScope scope(1);
  for (int64_t block : {16, 32, 64, 128}) {
    for (int64_t right : {-1, 0}) {
      for (bool per_head : {false, true}) {
        CAPTURE(block);
        const Inputs in = random_inputs(2, 4, 2, 300, 300, 16);
        const BlockGrid g{300, 300, block, block, -1, right, {}};
        const BlockMask m = block_mask(
            random_blocks({per_head ? 1 : 2, per_head ? 4 : 1, g.query_blocks(), g.key_blocks()},
                          0.5),
            g);
        auto reference = [&](const Tensor& q, const Tensor& k, const Tensor& v) {
          return block_sparse_attention_reference(q, k, v, m);
        };
        check_equal(results(in, sparse(m), false), results(in, reference, false));
      }
    }
  }
}

TEST_CASE("a mask of all blocks gives dense attention, causal and windows exact to the token") {
  RandomScope scope(2);
  struct Case {
    int64_t n, m, block_q, block_k;
    AttentionOptions options;
  };
  for (const Case& c :
       {Case{70, 90, 16, 16, {}}, Case{130, 130, 64, 64, {.causal = true}},
        Case{100, 170, 16, 64, {.causal = true}}, Case{190, 190, 32, 32, {.left = 40, .right = 0}},
        Case{190, 190, 64, 16, {.left = 9, .right = 21}}}) {
    const Inputs in = random_inputs(1, 2, 1, c.n, c.m, 8);
    const int64_t right = c.options.causal ? 0 : c.options.right;
    const BlockGrid g{c.n, c.m, c.block_q, c.block_k, c.options.left, right, {}};
    const int64_t before = score_entries();
    const TensorList a = results(in, sparse(all_blocks(g)));
    const int64_t between = score_entries();
    check_equal(a, results(in, dense(c.options)));
    CHECK(between - before == score_entries() - between);
  }
}

TEST_CASE("conditions of the options hold in full blocks too") {
  RandomScope scope(3);
  const Inputs in = random_inputs(2, 2, 2, 96, 96, 8);
  const BlockGrid g{96, 96, 16, 16, -1, -1, {}};
  const auto lengths = from_values<int32_t>(std::vector<int32_t>{50, 96}, {2});
  for (const AttentionOptions& o :
       {AttentionOptions{.causal = true}, AttentionOptions{.left = 5, .right = 3},
        AttentionOptions{.causal = true, .key_lengths = lengths},
        AttentionOptions{.causal = true, .score = softcap(0.5)}}) {
    check_equal(results(in, sparse(all_blocks(g), o)), results(in, dense(o)));
  }
  BlockGrid window = g;
  window.left = 20;
  window.right = 4;
  check_equal(results(in, sparse(all_blocks(window), {.causal = true})),
              results(in, dense({.causal = true, .left = 20})));
}

TEST_CASE("counted score entries are those of the mask") {
  RandomScope scope(4);
  const BlockGrid g{150, 150, 16, 32, -1, 0, {}};
  const Tensor q = randn({3, 4, 150, 8});
  for (const BlockMask& m :
       {block_mask(random_blocks({3, 4, g.query_blocks(), g.key_blocks()}, 0.4), g),
        sink_blocks(g, 4, 20)}) {
    const int64_t before = score_entries();
    block_sparse_attention(q, q, q, m);
    const int64_t heads = 12 / (m.map.size(0) * m.map.size(1));
    CHECK(score_entries() - before == count_entries(m) * heads);
  }
}

TEST_CASE("a query without blocks gives output 0, logsumexp minus infinity and gradients 0") {
  RandomScope scope(5);
  const Inputs in = random_inputs(1, 1, 1, 8, 8, 3);
  const auto active = from_values<uint8_t>(std::vector<uint8_t>{0, 0, 1, 0}, {1, 1, 2, 2});
  const BlockMask m = block_mask(active, {8, 8, 4, 4, -1, -1, {}});
  const AttentionResult r = block_sparse_attention(in.q, in.k, in.v, m);
  const auto out = r.output.to_vector<double>();
  const auto lse = r.logsumexp.to_vector<double>();
  for (size_t i = 0; i < 4; ++i) CHECK(lse[i] == -INFINITY);
  for (size_t i = 0; i < 12; ++i) CHECK(out[i] == 0);
  CHECK(std::isfinite(lse[4]));
  sum(r.output).backward();
  const auto gk = in.k.grad().to_vector<double>();
  for (size_t i = 12; i < 24; ++i) CHECK(gk[i] == 0);
  for (double g : in.q.grad().to_vector<double>()) CHECK(std::isfinite(g));
}

TEST_CASE("parts over disjoint blocks merge to the whole") {
  RandomScope scope(6);
  const Inputs in = random_inputs(1, 2, 2, 64, 64, 8);
  const BlockGrid g{64, 64, 8, 8, -1, 0, {}};
  const auto first = random_blocks({1, 2, 8, 8}, 0.5).to_vector<uint8_t>();
  auto second = first;
  for (uint8_t& b : second) b = b != 0 ? 0 : 1;
  const BlockMask a = block_mask(from_values(first, {1, 2, 8, 8}), g);
  const BlockMask b = block_mask(from_values(second, {1, 2, 8, 8}), g);
  auto merged = [&](const Tensor& q, const Tensor& k, const Tensor& v) {
    return merge(block_sparse_attention(q, k, v, a), block_sparse_attention(q, k, v, b));
  };
  check_equal(results(in, merged), results(in, dense({.causal = true})));
}

TEST_CASE("heads of a mixture give what they give alone") {
  RandomScope scope(7);
  const Inputs in = random_inputs(1, 2, 2, 48, 48, 8);
  const BlockGrid g{48, 48, 8, 8, -1, 0, {}};
  const BlockMask all = all_blocks(g), sinks = sink_blocks(g, 4, 8);
  const Tensor both =
      block_sparse_attention(in.q, in.k, in.v, mixture_of({all, sinks}, {0, 1})).output;
  const auto mixed = both.to_vector<double>();
  const auto one = block_sparse_attention(in.q, in.k, in.v, all).output.to_vector<double>();
  const auto two = block_sparse_attention(in.q, in.k, in.v, sinks).output.to_vector<double>();
  const size_t half = mixed.size() / 2;
  for (size_t i = 0; i < half; ++i) CHECK(mixed[i] == one[i]);
  for (size_t i = half; i < mixed.size(); ++i) CHECK(mixed[i] == two[i]);
}

TEST_CASE("block-sparse attention is bit-equal for any number of threads") {
  RandomScope scope(8);
  const Tensor q = randn({2, 3, 130, 16});
  const BlockGrid g{130, 130, 16, 16, -1, 0, {}};
  const BlockMask m = block_mask(random_blocks({1, 3, 9, 9}, 0.5), g);
  const int threads = num_threads();
  auto run = [&](int count) {
    set_num_threads(count);
    Tensor x = q.detach();
    x.set_requires_grad();
    const Tensor y = block_sparse_attention(x, x, x, m).output;
    sum(y * y).backward();
    auto result = y.to_vector<float>();
    const auto gradient = x.grad().to_vector<float>();
    result.insert(result.end(), gradient.begin(), gradient.end());
    return result;
  };
  const auto one = run(1), two = run(2);
  set_num_threads(threads);
  CHECK(one == two);
}
