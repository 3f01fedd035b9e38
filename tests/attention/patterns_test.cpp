#include "tessera/attention/patterns.h"

#include <doctest/doctest.h>

#include "tessera/core/create.h"
#include "tessera/core/random.h"
#include "tessera/core/view.h"

using namespace tessera;

namespace {

BlockGrid square(int64_t n, int64_t block, int64_t right = 0, int64_t left = -1) {
  return {n, n, block, block, left, right, {}};
}

std::vector<int> row_of(const BlockMask& m, int64_t head, int64_t row) {
  const auto kinds = views::select(views::select(views::select(m.map, 0, 0), 0, head), 0, row)
                         .to_vector<uint8_t>();
  std::vector<int> active;
  for (uint8_t k : kinds) active.push_back(k != 0 ? 1 : 0);
  return active;
}

// Whether a block holds an entry for which `rule` (query position, key) holds and which counts.
template <class Rule>
void check_blocks(const BlockMask& m, int64_t head, const Rule& rule) {
  const BlockGrid& g = m.grid;
  const int64_t ahead = g.keys - g.queries;
  for (int64_t r = 0; r < g.query_blocks(); ++r) {
    const std::vector<int> row = row_of(m, head, r);
    for (int64_t c = 0; c < g.key_blocks(); ++c) {
      bool chosen = false, visible = false;
      for (int64_t i = r * g.block_q; i < std::min(g.queries, (r + 1) * g.block_q); ++i) {
        for (int64_t j = c * g.block_k; j < std::min(g.keys, (c + 1) * g.block_k); ++j) {
          chosen = chosen || rule(i + ahead, j);
          visible = visible || g.right < 0 || j <= i + ahead + g.right;
        }
      }
      CHECK(row[static_cast<size_t>(c)] == (chosen && visible ? 1 : 0));
    }
  }
}

}  // namespace

TEST_CASE("strided blocks are the rows that S2-Attention states") {
  const BlockGrid g = square(16, 2);
  const StridedBlocks p{.heads = 1, .key_heads = 1, .local = 2, .stride = 3};
  const BlockMask causal = strided_blocks(g, p);
  CHECK(row_of(causal, 0, 7) == std::vector<int>{1, 0, 0, 1, 0, 0, 1, 1});
  CHECK(row_of(causal, 0, 3) == std::vector<int>{1, 0, 1, 1, 0, 0, 0, 0});
  const BlockMask both = strided_blocks(square(16, 2, -1), p);
  CHECK(row_of(both, 0, 0) == std::vector<int>{1, 1, 0, 0, 1, 0, 0, 1});
  CHECK(row_of(both, 0, 4) == std::vector<int>{1, 0, 0, 1, 1, 1, 0, 0});
}

TEST_CASE("strided blocks differ by key head, sharing the stripe inside a group") {
  const BlockMask m = strided_blocks(
      square(32, 2), {.heads = 8, .key_heads = 4, .local = 1, .stride = 16, .dense_groups = 1});
  for (int64_t h = 0; h < 6; ++h) {
    const int64_t group = h / 2;
    check_blocks(m, h, [&](int64_t q, int64_t k) {
      return q / 2 == k / 2 || (k / 2 + group * 2) % 16 == 0;
    });
  }
  check_blocks(m, 7, [](int64_t, int64_t) { return true; });
  const BlockMask shared =
      strided_blocks(square(32, 2), {.heads = 8, .local = 1, .stride = 4, .same_for_all = true});
  CHECK(shared.map.size(1) == 1);
}

TEST_CASE("heads of strided blocks together see the whole past when there are as many as strides") {
  const BlockMask m =
      strided_blocks(square(64, 4), {.heads = 4, .key_heads = 4, .local = 1, .stride = 4});
  for (int64_t r = 0; r < 16; ++r) {
    for (int64_t c = 0; c <= r; ++c) {
      int seen = 0;
      for (int64_t h = 0; h < 4; ++h) seen += row_of(m, h, r)[static_cast<size_t>(c)];
      CHECK(seen >= 1);
    }
  }
}

TEST_CASE("strided blocks of later queries are a slice of the whole mask") {
  const StridedBlocks p{.heads = 2, .key_heads = 2, .local = 2, .stride = 3};
  const BlockMask whole = strided_blocks(square(32, 4), p);
  const BlockMask last = strided_blocks({12, 32, 4, 4, -1, 0, {}}, p);
  for (int64_t h = 0; h < 2; ++h) {
    for (int64_t r = 0; r < 3; ++r) CHECK(row_of(last, h, r) == row_of(whole, h, r + 5));
  }
}

TEST_CASE("active blocks of a long strided mask number what the paper's formula gives") {
  const BlockMask m = strided_blocks(square(8192, 64), {.heads = 1, .local = 8, .stride = 15});
  int64_t active = 0;
  for (uint8_t k : m.map.to_vector<uint8_t>()) active += k != 0 ? 1 : 0;
  CHECK(active == 1536);  // of 8256
}

TEST_CASE("sinks and a window choose the blocks that hold such entries") {
  for (auto [queries, block_q, block_k] :
       {std::tuple<int64_t, int64_t, int64_t>{32, 4, 4}, {21, 4, 2}, {30, 2, 8}}) {
    const BlockGrid g{queries, 32, block_q, block_k, -1, 0, {}};
    check_blocks(sink_blocks(g, 5, 7), 0,
                 [](int64_t q, int64_t k) { return k < 5 || (q - k < 7 && k <= q); });
    check_blocks(sink_blocks(g, 3, 0), 0, [](int64_t, int64_t k) { return k < 3; });
  }
}

TEST_CASE("vertical and slash choose the blocks that hold such entries, heads by themselves") {
  const auto vertical = from_values<int32_t>(std::vector<int32_t>{0, 17, -1, 30, -1, 5}, {1, 2, 3});
  const auto slash = from_values<int64_t>(std::vector<int64_t>{0, 9, 9, 3}, {1, 2, 2});
  const std::vector<std::vector<int64_t>> columns{{0, 17}, {30, 5}}, distances{{0, 9}, {9, 3}};
  for (auto [queries, block_q, block_k] :
       {std::tuple<int64_t, int64_t, int64_t>{32, 4, 4}, {21, 4, 2}, {29, 2, 8}}) {
    for (int64_t right : {-1, 0}) {
      const BlockGrid g{queries, 32, block_q, block_k, -1, right, {}};
      const BlockMask m = vertical_slash_blocks(g, vertical, slash);
      for (size_t h = 0; h < 2; ++h) {
        auto has = [](const std::vector<int64_t>& list, int64_t x) {
          return std::find(list.begin(), list.end(), x) != list.end();
        };
        check_blocks(m, static_cast<int64_t>(h), [&](int64_t q, int64_t k) {
          return has(columns[h], k) || has(distances[h], q - k);
        });
      }
    }
  }
}

TEST_CASE("the highest scores choose blocks, ties to the lowest, the diagonal first") {
  const BlockGrid g = square(8, 2);
  const Tensor scores = tensor({9, 9, 9, 9, 5, 5, 9, 9, 1, 3, 2, 9, 4, 4, 4, 0}, {1, 1, 4, 4});
  const BlockMask one = top_blocks(g, scores, 2);
  CHECK(row_of(one, 0, 0) == std::vector<int>{1, 0, 0, 0});
  CHECK(row_of(one, 0, 1) == std::vector<int>{1, 1, 0, 0});
  CHECK(row_of(one, 0, 2) == std::vector<int>{0, 1, 1, 0});
  CHECK(row_of(one, 0, 3) == std::vector<int>{1, 0, 0, 1});
  CHECK(one.keys_of.index.size(3) == 2);
  const BlockMask free = top_blocks(g, scores, 2, false);
  CHECK(row_of(free, 0, 3) == std::vector<int>{1, 1, 0, 0});
}

TEST_CASE("choosing all blocks by score is causal attention") {
  RandomScope scope(1);
  const BlockGrid g = square(60, 8);
  const Tensor scores = randn({2, 2, 8, 8});
  const auto all = all_blocks(g).map.to_vector<uint8_t>();
  for (const BlockMask& m : {top_blocks(g, scores, 8), top_blocks(g, scores, 100),
                             threshold_blocks(g, scores, -INFINITY, 0)}) {
    CHECK(views::select(views::select(m.map, 0, 1), 0, 1).to_vector<uint8_t>() == all);
  }
}

TEST_CASE("a threshold keeps the scores above it and the minimum") {
  const BlockGrid g = square(8, 2);
  const Tensor scores = tensor({0, 0, 0, 0, 3, 1, 9, 9, 1, 1, 1, 9, 2, 3, 0, 0}, {1, 1, 4, 4});
  const BlockMask m = threshold_blocks(g, scores, 1, 2, false);
  CHECK(row_of(m, 0, 1) == std::vector<int>{1, 1, 0, 0});
  CHECK(row_of(m, 0, 2) == std::vector<int>{1, 1, 0, 0});
  CHECK(row_of(m, 0, 3) == std::vector<int>{1, 1, 0, 0});
  CHECK(row_of(threshold_blocks(g, scores, 5, 0, true), 0, 3) == std::vector<int>{0, 0, 0, 1});
}

TEST_CASE("lists choose blocks, −1 none") {
  const auto lists =
      from_values<int32_t>(std::vector<int32_t>{1, -1, -1, -1, 2, 0, 1, 1}, {1, 1, 4, 2});
  const BlockMask m = listed_blocks(square(8, 2, -1), lists);
  CHECK(row_of(m, 0, 0) == std::vector<int>{0, 1, 0, 0});
  CHECK(row_of(m, 0, 1) == std::vector<int>{0, 0, 0, 0});
  CHECK(row_of(m, 0, 2) == std::vector<int>{1, 0, 1, 0});
  CHECK(row_of(m, 0, 3) == std::vector<int>{0, 1, 0, 0});
  const auto beyond =
      from_values<int32_t>(std::vector<int32_t>{1, -1, -1, -1, 4, 0, 1, 1}, {1, 1, 4, 2});
  CHECK_THROWS_AS(listed_blocks(square(8, 2, -1), beyond), Error);
}

TEST_CASE("a union has the blocks of all its masks and the widest window") {
  const BlockGrid g = square(32, 4);
  const BlockMask sinks = sink_blocks(g, 4, 0), window = all_blocks(square(32, 4, 0, 6));
  const BlockMask u = union_of({sinks, window});
  CHECK(u.grid.left == -1);
  CHECK(u.grid.right == 0);
  for (int64_t r = 0; r < 8; ++r) {
    const auto a = row_of(sinks, 0, r), b = row_of(window, 0, r), c = row_of(u, 0, r);
    for (size_t j = 0; j < 8; ++j) CHECK(c[j] == std::max(a[j], b[j]));
  }
  CHECK_THROWS_WITH_AS(union_of({sinks, all_blocks(square(32, 8))}), doctest::Contains("union_of"),
                       Error);
  CHECK_THROWS_WITH_AS(union_of({}), doctest::Contains("union_of"), Error);
}

TEST_CASE("a mixture gives each head the mask it chooses") {
  const BlockGrid g = square(32, 4);
  const BlockMask all = all_blocks(g), sinks = sink_blocks(g, 4, 4);
  const BlockMask strided =
      strided_blocks(g, {.heads = 3, .key_heads = 3, .local = 1, .stride = 3});
  const BlockMask m = mixture_of({all, sinks, strided}, {1, 0, 2});
  for (int64_t r = 0; r < 8; ++r) {
    CHECK(row_of(m, 0, r) == row_of(sinks, 0, r));
    CHECK(row_of(m, 1, r) == row_of(all, 0, r));
    CHECK(row_of(m, 2, r) == row_of(strided, 2, r));
  }
  CHECK_THROWS_WITH_AS(mixture_of({all}, {0, 1}), doctest::Contains("chooses mask 1 of 1"), Error);
  CHECK_THROWS_WITH_AS(mixture_of({strided}, {0, 0}), doctest::Contains("3 heads"), Error);
}
