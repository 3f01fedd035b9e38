#include "tessera/attention/engines/dense.h"

#include <doctest/doctest.h>

#include <cmath>

#include "tessera/attention/attention.h"
#include "tessera/attention/kv_cache.h"
#include "tessera/autograd/gradcheck.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/tape.h"
#include "tessera/core/allocator.h"
#include "tessera/core/create.h"
#include "tessera/core/parallel.h"
#include "tessera/core/random.h"
#include "tessera/tests/attention/support.h"

using namespace tessera;
using namespace tessera::test;

TEST_CASE("the dense engine equals its reference in values and gradients across tile borders") {
  RandomScope scope(1);
  struct Case {
    int64_t b, h, hk, n, m, d;
    bool causal;
  };
  for (const Case& c : {Case{2, 2, 2, 65, 65, 8, true}, Case{1, 4, 2, 70, 300, 16, false},
                        Case{1, 2, 1, 129, 513, 8, true}, Case{1, 1, 1, 1, 257, 64, true},
                        Case{1, 2, 2, 5, 3, 8, true}, Case{1, 1, 1, 64, 256, 32, true}}) {
    CAPTURE(c.n);
    CAPTURE(c.m);
    const Inputs in = random_inputs(c.b, c.h, c.hk, c.n, c.m, c.d);
    const AttentionOptions options{.causal = c.causal};
    auto gradients = [&](auto engine) {
      const AttentionResult r = engine();
      RandomScope same(9);
      const Tensor w = randn(r.output.shape(), DType::f64);
      Tensor loss = sum(r.output * w);
      if (c.n <= c.m) loss = loss + sum(r.logsumexp * r.logsumexp);
      TensorList g = grad({loss}, {in.q, in.k, in.v});
      g.push_back(r.output);
      return g;
    };
    const TensorList fast = gradients([&] { return dense_attention(in.q, in.k, in.v, options); });
    const TensorList plain =
        gradients([&] { return dense_attention_reference(in.q, in.k, in.v, options); });
    for (size_t i = 0; i < fast.size(); ++i) CHECK(worst(fast[i], plain[i]) < 1e-10);
  }
}

TEST_CASE("a query that sees no key gives output 0 and logsumexp minus infinity") {
  RandomScope scope(2);
  const Inputs in = random_inputs(1, 1, 1, 4, 2, 3);  // causal: the first two queries see nothing
  const AttentionResult r = dense_attention(in.q, in.k, in.v, {.causal = true});
  const auto out = r.output.to_vector<double>();
  const auto lse = r.logsumexp.to_vector<double>();
  for (size_t i = 0; i < 6; ++i) CHECK(out[i] == 0);
  CHECK(lse[0] == -INFINITY);
  CHECK(std::isfinite(lse[2]));
  sum(r.output).backward();
  for (double g : in.q.grad().to_vector<double>()) CHECK(std::isfinite(g));
}

TEST_CASE("grouped key heads equal repeated ones") {
  RandomScope scope(3);
  const Inputs in = random_inputs(2, 4, 2, 10, 10, 8);
  NoGrad off;
  const Tensor k = reshape(stack({in.k, in.k}, 2), {2, 4, 10, 8});
  const Tensor v = reshape(stack({in.v, in.v}, 2), {2, 4, 10, 8});
  CHECK(worst(dense_attention(in.q, in.k, in.v, {.causal = true}).output,
              dense_attention(in.q, k, v, {.causal = true}).output) < 1e-14);
}

TEST_CASE("attention is bit-equal for any number of threads") {
  RandomScope scope(4);
  const Tensor q = randn({2, 3, 130, 16});
  const int threads = num_threads();
  auto run = [&](int count) {
    set_num_threads(count);
    Tensor x = q.detach();
    x.set_requires_grad();
    const Tensor y = dense_attention(x, x, x, {.causal = true}).output;
    sum(y * y).backward();
    auto result = y.to_vector<float>();
    const auto g = x.grad().to_vector<float>();
    result.insert(result.end(), g.begin(), g.end());
    return result;
  };
  const auto one = run(1);
  const auto two = run(2);
  set_num_threads(threads);
  CHECK(one == two);
}

TEST_CASE("memory grows linearly with the length") {
  RandomScope scope(5);
  auto peak = [](int64_t n) {
    const Tensor q = randn({1, 1, n, 8});
    Tensor x = q;
    x.set_requires_grad();
    Allocator& memory = allocator({});
    memory.reset_peak();
    const int64_t before = memory.stats().live;
    sum(dense_attention(x, x, x, {.causal = true}).output).backward();
    return static_cast<double>(memory.stats().peak - before);
  };
  const double small = peak(1024);
  CHECK(peak(4096) < 5 * small);
}

TEST_CASE("score entries are counted: half of a causal square and its diagonal") {
  RandomScope scope(6);
  const Inputs in = random_inputs(2, 3, 3, 10, 10, 4);
  const int64_t before = score_entries();
  dense_attention(in.q, in.k, in.v, {.causal = true});
  CHECK(score_entries() - before == 2 * 3 * 55);
}

TEST_CASE("the entries that a window lets are known without looking at each") {
  for (int64_t queries : {0, 1, 5, 9}) {
    for (int64_t keys : {0, 1, 4, 9, 12}) {
      for (int64_t left : {-1, 0, 2, 20}) {
        for (int64_t right : {-1, 0, 3, 20}) {
          int64_t want = 0;
          for (int64_t i = 0; i < queries; ++i) {
            for (int64_t j = 0; j < keys; ++j) {
              const int64_t ahead = j - (i + keys - queries);
              want += (left < 0 || ahead >= -left) && (right < 0 || ahead <= right) ? 1 : 0;
            }
          }
          CHECK(engine::window_entries(queries, keys, left, right) == want);
        }
      }
    }
  }
}

TEST_CASE("a mechanism with a cache gives what it gives for the whole sequence") {
  RandomScope scope(7);
  for (const char* type : {"none", "rotary", "alibi", "relative_bias"}) {
    CAPTURE(type);
    const auto encoding = Choice<Positions>(type).build(
        PositionGeometry{.width = 16, .context = 12, .heads = 4, .head_dim = 4});
    auto layer = Choice<Attention>("dense").build(
        Geometry{.width = 16, .heads = 4, .context = 12, .init_std = 0.3, .output_init_std = 0.3});
    const Tensor x = randn({2, 9, 16});
    AttentionContext whole{.causal = true, .encoding = encoding.get()};
    whole.positions = arange(0, 9);
    NoGrad off;
    const Tensor all = (*layer)(x, whole);
    KvCache cache(12);
    TensorList parts;
    for (auto [begin, end] : {std::pair<int64_t, int64_t>{0, 4}, {4, 5}, {5, 9}}) {
      AttentionContext step = whole;
      step.cache = &cache;
      step.positions = arange(static_cast<double>(begin), static_cast<double>(end));
      parts.push_back((*layer)(slice(x, 1, begin, end), step));
    }
    CHECK(worst(concat(parts, 1), all) < 1e-5);
    CHECK(cache.length() == 9);
    CHECK(cache.bytes() == 2 * 2 * 4 * 9 * 4 * 4);
  }
}

TEST_CASE("rows that one row stands for by a stride of zero are as good as copies of it") {
  const Tensor q = samples::normal({1, 2, 5, 1}).to(DType::f32);
  const Tensor one = samples::normal({1, 2, 1, 1}, 1).to(DType::f32);
  const Tensor v = samples::normal({1, 2, 7, 6}, 2).to(DType::f32);
  const Tensor k = expand(one, {1, 2, 7, 1});
  CHECK(worst(dense_attention(q, k, v).output, dense_attention(q, clone(k), v).output) < 1e-6);
  CHECK(worst(dense_attention(k, q, slice(v, 2, 0, 5)).output,
              dense_attention(clone(k), q, slice(v, 2, 0, 5)).output) < 1e-6);
}
