// The gather engine: lists of keys against dense attention under the same rule, groups against
// blocks of it, what lists may hold, and the counts of entries.
#include "tessera/attention/engines/gather_attention.h"

#include <doctest/doctest.h>

#include <cmath>

#include "tessera/attention/engines/dense.h"
#include "tessera/attention/engines/scores.h"
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

namespace {

// Output, logsumexp, and the gradients of q, k, v through both.
TensorList all_of(const Inputs& in, const AttentionResult& r) {
  RandomScope same(9);
  const Tensor w = randn(r.output.shape(), DType::f64), u = randn(r.logsumexp.shape(), DType::f64);
  TensorList list = grad({r.output, r.logsumexp}, {in.q, in.k, in.v}, {w, u});
  list.push_back(r.output);
  list.push_back(r.logsumexp);
  return list;
}

void check_equal(const TensorList& a, const TensorList& b, double bound = 1e-11) {
  for (size_t i = 0; i < a.size(); ++i) {
    CAPTURE(i);
    CHECK(worst(a[i], b[i]) < bound);
  }
}

// fn(group or query, place) as lists (1, 1, count, width).
template <class Fn>
Tensor lists_of(int64_t count, int64_t width, const Fn& fn) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t j = 0; j < width; ++j) ids.push_back(static_cast<int32_t>(fn(i, j)));
  }
  return from_values(ids, {1, 1, count, width});
}

}  // namespace

TEST_CASE("lists of all keys in any order equal dense attention") {
  RandomScope scope(1);
  for (const auto& [n, m, hk] : {std::tuple<int64_t, int64_t, int64_t>{5, 7, 4}, {70, 300, 2}}) {
    const Inputs in = random_inputs(2, 4, hk, n, m, 8);
    const AttentionOptions options{.causal = true};
    const TensorList dense = all_of(in, dense_attention(in.q, in.k, in.v, options));
    const int64_t size = m;
    const Tensor sorted = lists_of(n, m, [](int64_t, int64_t j) { return j; });
    const Tensor other =
        lists_of(n, m, [&](int64_t i, int64_t j) { return (i + size - j) % size; });
    check_equal(all_of(in, gather_attention(in.q, in.k, in.v, sorted, options)), dense);
    check_equal(all_of(in, gather_attention(in.q, in.k, in.v, other, options)), dense);
  }
}

TEST_CASE("lists of a window equal dense attention with that window") {
  RandomScope scope(2);
  const int64_t n = 40;
  const Inputs in = random_inputs(1, 2, 2, n, n, 8);
  const Tensor table = randn({2, 10}, DType::f64);
  const Tensor lists = lists_of(n, 9, [](int64_t i, int64_t j) {
    const int64_t key = i + j - 5;
    return key < 0 || key >= 40 ? -1 : key;
  });
  const AttentionOptions window{.left = 5, .right = 3, .score = offset_bias(table, 5)};
  check_equal(all_of(in, gather_attention(in.q, in.k, in.v, lists, {.score = window.score})),
              all_of(in, dense_attention(in.q, in.k, in.v, window)));
}

TEST_CASE("padding changes nothing, duplicates count twice and in unique lists once") {
  RandomScope scope(3);
  const Inputs in = random_inputs(1, 2, 1, 4, 6, 5);
  const Tensor lists = lists_of(4, 3, [](int64_t i, int64_t j) { return (i + 2 * j) % 6; });
  const Tensor padded =
      lists_of(4, 6, [](int64_t i, int64_t j) { return j % 2 == 0 ? -1 : (i + 2 * (j / 2)) % 6; });
  const Tensor twice = lists_of(4, 6, [](int64_t i, int64_t j) { return (i + 2 * (j % 3)) % 6; });
  const TensorList once = all_of(in, gather_attention(in.q, in.k, in.v, lists));
  check_equal(all_of(in, gather_attention(in.q, in.k, in.v, padded)), once);
  check_equal(all_of(in, gather_attention(in.q, in.k, in.v, unique_lists(twice))), once);
  const AttentionResult r = gather_attention(in.q, in.k, in.v, twice);
  CHECK(worst(r.output, once[3]) < 1e-12);
  CHECK(worst(r.logsumexp, once[4] + std::log(2.0)) < 1e-12);
  const Tensor heavier = lists_of(1, 3, [](int64_t, int64_t j) { return j / 2; });  // 0, 0, 1
  const Tensor q = in.q.detach();
  const Tensor a = gather_attention(slice(q, 2, 0, 1), in.k, in.v, heavier).logsumexp;
  const Tensor b = gather_attention(slice(q, 2, 0, 1), in.k, in.v,
                                    lists_of(1, 2, [](int64_t, int64_t j) { return j; }))
                       .logsumexp;
  CHECK(worst(a, b) > 1e-3);
}

TEST_CASE("groups that partition the tokens equal dense attention inside segments") {
  RandomScope scope(4);
  for (const int64_t width : {4, 130}) {  // within a tile, and in several
    CAPTURE(width);
    const int64_t groups = 3, n = groups * width;
    const Inputs in = random_inputs(1, 4, 2, n, n, 8);
    // Token i is in group i mod 3.
    const Tensor lists =
        lists_of(groups, width, [=](int64_t g, int64_t i) { return i * groups + g; });
    std::vector<int32_t> ids;
    for (int64_t i = 0; i < n; ++i) ids.push_back(static_cast<int32_t>(i % groups));
    const Tensor segments = from_values(ids, {1, 1, n});
    const TensorList dense = all_of(
        in,
        dense_attention(in.q, in.k, in.v,
                        {.causal = true, .query_segments = segments, .key_segments = segments}));
    for (const Combine how : {Combine::sum, Combine::mean, Combine::merge}) {
      check_equal(all_of(in, grouped_gather_attention(in.q, in.k, in.v, lists, lists, how,
                                                      {.causal = true})),
                  dense);
    }
  }
}

TEST_CASE("the mean over the same group twice is that of the group once") {
  RandomScope scope(5);
  const Inputs in = random_inputs(2, 2, 2, 12, 12, 4);
  const Tensor once = lists_of(2, 6, [](int64_t g, int64_t i) { return 2 * i + g; });
  const Tensor twice = lists_of(4, 6, [](int64_t g, int64_t i) { return 2 * i + g % 2; });
  auto mean = [&](const Tensor& lists) {
    return all_of(in, grouped_gather_attention(in.q, in.k, in.v, lists, lists, Combine::mean));
  };
  const TensorList a = mean(once), b = mean(twice);
  CHECK(worst(a[3], b[3]) < 1e-12);
  CHECK(worst(a[4] + std::log(2.0), b[4]) < 1e-12);
  for (size_t i = 0; i < 3; ++i) CHECK(worst(a[i], b[i]) < 1e-11);
}

TEST_CASE("groups whose keys are parts merge into one softmax over all of them") {
  RandomScope scope(6);
  const Inputs in = random_inputs(1, 2, 2, 5, 12, 4);
  const Tensor queries = lists_of(3, 5, [](int64_t, int64_t i) { return 4 - i; });
  const Tensor keys = lists_of(3, 4, [](int64_t g, int64_t j) { return 3 * j + g; });
  check_equal(all_of(in, grouped_gather_attention(in.q, in.k, in.v, queries, keys, Combine::merge)),
              all_of(in, dense_attention(in.q, in.k, in.v)));
}

TEST_CASE("a query in no group gives 0 and logsumexp minus infinity, and gets no gradient") {
  RandomScope scope(7);
  const Inputs in = random_inputs(1, 1, 1, 4, 4, 3);
  const Tensor lists = lists_of(1, 3, [](int64_t, int64_t i) { return i == 2 ? -1 : i; });
  for (const Combine how : {Combine::sum, Combine::mean, Combine::merge}) {
    const TensorList r = all_of(in, grouped_gather_attention(in.q, in.k, in.v, lists, lists, how));
    for (const size_t which : {0, 3}) {
      const auto rows = slice(r[which], 2, 2).to_vector<double>();
      CHECK(rows == std::vector<double>(6, 0.0));
    }
    CHECK(slice(r[4], 2, 2).to_vector<double>() == std::vector<double>(2, -INFINITY));
  }
}

TEST_CASE("an index outside of the keys is named with its place") {
  const Tensor x = randn({1, 1, 2, 3});
  const Tensor lists = from_values(std::vector<int32_t>{0, 1, -1, 5}, {1, 1, 2, 2});
  CHECK_THROWS_WITH_AS(gather_attention(x, x, x, lists), doctest::Contains("5"), Error);
  CHECK_THROWS_WITH_AS(gather_attention(x, x, x, lists), doctest::Contains("[0, 0, 1, 1]"), Error);
}

TEST_CASE("entries of lists are counted where they are visible") {
  RandomScope scope(8);
  const Inputs in = random_inputs(2, 3, 3, 4, 4, 2);
  // Lists 0 1 2 3 −1: causal, query i sees i + 1 of them.
  const Tensor lists = lists_of(4, 5, [](int64_t, int64_t j) { return j == 4 ? -1 : j; });
  auto counted = [](const auto& run) {
    const int64_t before = score_entries();
    run();
    return score_entries() - before;
  };
  CHECK(counted([&] { gather_attention(in.q, in.k, in.v, lists); }) == 6 * 16);
  CHECK(counted([&] { gather_attention(in.q, in.k, in.v, lists, {.causal = true}); }) == 6 * 10);
  const Tensor queries = lists_of(2, 3, [](int64_t g, int64_t i) { return i == 0 ? -1 : i + g; });
  const Tensor keys = lists_of(2, 3, [](int64_t, int64_t j) { return j - 1; });
  CHECK(counted([&] { grouped_gather_attention(in.q, in.k, in.v, queries, keys); }) == 6 * 8);
}

TEST_CASE("the gather engine gives the same bits for any number of threads") {
  RandomScope scope(9);
  const Tensor x = randn({1, 4, 200, 16}), table = randn({4, 5});
  const Tensor lists = randint(-1, 200, {1, 4, 200, 12}).to(DType::i32);
  const Tensor queries = randint(-1, 200, {1, 4, 9, 70}).to(DType::i32);
  const Tensor keys = randint(-1, 200, {1, 4, 9, 40}).to(DType::i32);
  const int threads = num_threads();
  auto run = [&](int count) {
    set_num_threads(count);
    Tensor y = x.detach(), t = table.detach();
    y.set_requires_grad();
    t.set_requires_grad();
    const AttentionOptions options{.causal = true, .score = distance_bias(t)};
    const AttentionResult a = gather_attention(y, y, y, lists, options);
    const AttentionResult b =
        grouped_gather_attention(y, y, y, queries, keys, Combine::merge, options);
    sum(a.output * a.output + b.output * b.output).backward();
    std::vector<float> all;
    for (const Tensor& part : {a.output, b.output, b.logsumexp, y.grad(), t.grad()}) {
      const auto values = part.to_vector<float>();
      all.insert(all.end(), values.begin(), values.end());
    }
    return all;
  };
  const auto one = run(1), two = run(2);
  set_num_threads(threads);
  CHECK(one == two);
}

TEST_CASE("memory of the gather engine grows linearly with the length") {
  RandomScope scope(10);
  auto peak = [](int64_t n) {
    Tensor x = randn({1, 2, n, 8});
    x.set_requires_grad();
    const Tensor lists = randint(-1, n, {1, 2, n, 16}).to(DType::i32);
    Allocator& memory = allocator({});
    memory.reset_peak();
    const int64_t before = memory.stats().live;
    sum(gather_attention(x, x, x, lists).output).backward();
    return static_cast<double>(memory.stats().peak - before);
  };
  CHECK(peak(4096) < 5 * peak(1024));
}
