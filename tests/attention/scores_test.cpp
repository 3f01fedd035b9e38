#include "tessera/attention/engines/scores.h"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <string_view>

#include "tessera/attention/engines/block_sparse.h"
#include "tessera/attention/engines/decode.h"
#include "tessera/attention/engines/dense.h"
#include "tessera/attention/engines/gather_attention.h"
#include "tessera/attention/engines/neighborhood.h"
#include "tessera/attention/patterns.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/tape.h"
#include "tessera/core/create.h"
#include "tessera/core/random.h"
#include "tessera/tests/attention/support.h"

using namespace tessera;
using namespace tessera::test;
using doctest::Contains;

TEST_CASE("every engine refuses a table that does not fit the scores") {
  NoGrad off;
  const Tensor x = zeros({2, 4, 6, 8});
  const Tensor lists = zeros({1, 1, 6, 3}).to(DType::i32);
  struct Engine {
    std::string_view name;
    std::function<void(const Score&)> run;
  };
  const WindowRule windows = neighborhood_windows({.shape = {6}, .window = {3}});
  const BlockMask all = all_blocks({.queries = 6, .keys = 6});
  const Engine engines[] = {
      {"dense_attention", [&](const Score& s) { dense_attention(x, x, x, {.score = s}); }},
      {"block_sparse_attention",
       [&](const Score& s) { block_sparse_attention(x, x, x, all, {.score = s}); }},
      {"neighborhood_attention",
       [&](const Score& s) { neighborhood_attention(x, x, x, {.windows = windows, .score = s}); }},
      {"gather_attention", [&](const Score& s) { gather_attention(x, x, x, lists, {.score = s}); }},
      {"grouped_gather_attention",
       [&](const Score& s) { grouped_gather_attention(x, x, x, lists, lists, {.score = s}); }},
      {"decode_attention", [&](const Score& s) { decode_attention(x, x, x, {.score = s}); }},
  };
  for (const Engine& engine : engines) {
    CAPTURE(engine.name);
    for (const Score& fits : {alibi(zeros({4})), offset_bias(zeros({1, 3}), 1),
                              distance_bias(zeros({4, 9})), bucket_bias(zeros({8, 4}), 9, true),
                              bias(zeros({2, 1, 6, 6})), bias(zeros({1, 4, 1, 6}))}) {
      CHECK_NOTHROW(engine.run(fits));
    }
    for (const Score& score : {alibi(zeros({3})), alibi(zeros({1})), offset_bias(zeros({2, 3}), 1),
                               distance_bias(zeros({8, 9})), bucket_bias(zeros({8, 1}), 9, true),
                               bias(zeros({3, 1, 6, 6})), bias(zeros({1, 4, 1, 5}))}) {
      CAPTURE(score.name());
      const std::string wanted = fmt::format("{}: a table of {} is ", engine.name, score.name());
      CHECK_THROWS_WITH_AS(engine.run(score), Contains(wanted.c_str()), Error);
    }
  }
  CHECK_THROWS_WITH_AS(dense_attention(x, x, x, {.score = alibi(zeros({3}))}),
                       Contains("is (3); for scores (2, 4, 6, 6) it must be (4)"), Error);
}

TEST_CASE("grid_bias refuses even windows and causal axes, as its source does") {
  const WindowRule even = neighborhood_windows({.shape = {4, 8}, .window = {3, 4}});
  CHECK_THROWS_WITH_AS(grid_bias(zeros({1, 5, 7}), even), Contains("an axis has even windows of 4"),
                       Error);
  const WindowRule causal =
      neighborhood_windows({.shape = {4, 8}, .window = {3, 3}, .causal = {true, false}});
  CHECK_THROWS_WITH_AS(grid_bias(zeros({1, 5, 5}), causal),
                       Contains("an axis has causal windows of 3"), Error);
}

TEST_CASE("bucket_bias gives near distances buckets of their own and far ones by the logarithm") {
  NoGrad off;
  const int64_t n = 400;
  const auto bucket = [](int64_t distance, int64_t count, int64_t most) {
    const int64_t exact = count / 2;
    if (distance < exact) return distance;
    const double share = std::log(double(distance) / double(exact)) /
                         std::log(double(most) / double(exact)) * double(count - exact);
    return std::min(exact + static_cast<int64_t>(share), count - 1);
  };
  for (const auto& [buckets, most] : {std::pair<int64_t, int64_t>{32, 128}, {8, 300}, {200, 180}}) {
    for (const bool bidirectional : {false, true}) {
      const int64_t count = bidirectional ? buckets / 2 : buckets;
      const Tensor table = arange(0, static_cast<double>(buckets)).to(DType::f64) -
                           full({buckets}, 50, {DType::f64, {}});
      // Each query sees one key, so that its logsumexp is the score.
      for (const double sign : {1, -1}) {
        const Tensor places = arange(0, static_cast<double>(n)) * sign;
        const Tensor lse =
            dense_attention(
                zeros({1, 1, n, 4}, {DType::f64, {}}), zeros({1, 1, 1, 4}, {DType::f64, {}}),
                zeros({1, 1, 1, 4}, {DType::f64, {}}),
                {.query_positions = reshape(places.to(DType::i32), {1, 1, n}),
                 .key_positions = zeros({1, 1, 1}, {DType::i32, {}}),
                 .score = bucket_bias(reshape(table, {buckets, 1}), most, bidirectional)})
                .logsumexp;
        const auto got = lse.to_vector<double>();
        for (int64_t d = 0; d < n; ++d) {
          const int64_t behind = sign > 0 ? d : 0;
          const int64_t want = bidirectional
                                   ? (sign < 0 && d > 0 ? count : 0) + bucket(d, count, most)
                                   : bucket(behind, count, most);
          CHECK(got[static_cast<size_t>(d)] + 50 == doctest::Approx(double(want)));
        }
      }
    }
  }
}
