#include "tessera/attention/engines/block_mask.h"

#include <doctest/doctest.h>

#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/parallel.h"
#include "tessera/core/random.h"
#include "tessera/core/view.h"

using namespace tessera;

namespace {

Tensor random_blocks(const Shape& shape, double share, uint64_t seed) {
  RandomScope scope(seed);
  const auto x = rand(shape).to_vector<float>();
  std::vector<uint8_t> bytes;
  for (float v : x) bytes.push_back(v < share ? 1 : 0);
  return from_values(bytes, shape);
}

bool in_window(const BlockGrid& g, int64_t i, int64_t j) {
  const int64_t offset = j - i - (g.keys - g.queries);
  return (g.left < 0 || offset >= -g.left) && (g.right < 0 || offset <= g.right);
}

// The kind of a block, entry by entry.
uint8_t kind_of(const BlockGrid& g, int64_t row, int64_t column) {
  int64_t seen = 0, all = 0;
  for (int64_t i = row * g.block_q; i < std::min(g.queries, (row + 1) * g.block_q); ++i) {
    for (int64_t j = column * g.block_k; j < (column + 1) * g.block_k; ++j) {
      ++all;
      if (j < g.keys && in_window(g, i, j)) ++seen;
    }
  }
  return seen == 0 ? 0 : seen == all ? 2 : 1;
}

// The map that lists stand for: u8 (B, H, R, C).
std::vector<uint8_t> map_of(const BlockLists& lists, int64_t columns) {
  const int64_t rows = lists.counts.numel() / 2, capacity = lists.index.size(3);
  const auto counts = lists.counts.to_vector<int32_t>();
  const auto index = lists.index.to_vector<int32_t>();
  std::vector<uint8_t> map(static_cast<size_t>(rows * columns), 0);
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t partial = counts[static_cast<size_t>(2 * r)];
    const int64_t total = partial + counts[static_cast<size_t>(2 * r + 1)];
    for (int64_t n = 0; n < capacity; ++n) {
      const int32_t c = index[static_cast<size_t>(r * capacity + n)];
      if (n >= total) {
        CHECK(c == 0);
        continue;
      }
      if (n > 0 && n != partial) CHECK(c > index[static_cast<size_t>(r * capacity + n - 1)]);
      map[static_cast<size_t>(r * columns + c)] = n < partial ? 1 : 2;
    }
  }
  return map;
}

}  // namespace

TEST_CASE("bounds of the window classify every block as its entries do") {
  for (auto [queries, keys] : {std::pair<int64_t, int64_t>{24, 24}, {23, 23}, {7, 19}, {19, 7}}) {
    for (auto [block_q, block_k] : {std::pair<int64_t, int64_t>{4, 4}, {8, 3}, {2, 5}, {32, 32}}) {
      for (auto [left, right] : {std::pair<int64_t, int64_t>{-1, -1},
                                 {-1, 0},
                                 {3, 0},
                                 {4, 2},
                                 {-1, 5},
                                 {0, 0},
                                 {6, -1}}) {
        const BlockGrid g{queries, keys, block_q, block_k, left, right, {}};
        const BlockMask m =
            block_mask(full({1, 1, g.query_blocks(), g.key_blocks()}, 1, {DType::u8, {}}), g);
        const auto map = m.map.to_vector<uint8_t>();
        int64_t entries = 0;
        for (int64_t i = 0; i < queries; ++i) {
          for (int64_t j = 0; j < keys; ++j) entries += in_window(g, i, j) ? 1 : 0;
        }
        for (int64_t at = 0; at < m.map.numel(); ++at) {
          CHECK(map[static_cast<size_t>(at)] ==
                kind_of(g, at / g.key_blocks(), at % g.key_blocks()));
        }
        CHECK(count_entries(m) == entries);
      }
    }
  }
}

TEST_CASE("lists hold the blocks of the map, partial ones first, in order, in both directions") {
  for (int64_t right : {-1, 0}) {
    const BlockGrid g{70, 70, 4, 6, -1, right, {}};
    const BlockMask m =
        block_mask(random_blocks({2, 3, g.query_blocks(), g.key_blocks()}, 0.4, 1), g);
    CHECK(map_of(m.keys_of, g.key_blocks()) == m.map.to_vector<uint8_t>());
    CHECK(map_of(m.queries_of, g.query_blocks()) ==
          kernels::contiguous(views::transpose(m.map, 2, 3)).to_vector<uint8_t>());
    CHECK_FALSE(overflowed(m));
  }
}

TEST_CASE("transposing a mask twice gives the mask") {
  const BlockGrid g{40, 56, 8, 8, -1, -1, {}};
  const BlockGrid back{56, 40, 8, 8, -1, -1, {}};
  const Tensor active = random_blocks({1, 2, 5, 7}, 0.5, 2);
  const BlockMask m = block_mask(active, g);
  const BlockMask t = block_mask(views::transpose(active, 2, 3), back);
  CHECK(t.keys_of.index.to_vector<int32_t>() == m.queries_of.index.to_vector<int32_t>());
  CHECK(t.queries_of.index.to_vector<int32_t>() == m.keys_of.index.to_vector<int32_t>());
  CHECK(t.queries_of.counts.to_vector<int32_t>() == m.keys_of.counts.to_vector<int32_t>());
}

TEST_CASE("kernels find the lists of a batch and head, shared ones too") {
  const BlockGrid g{8, 8, 2, 2, -1, 0, {}};
  const BlockMask m = block_mask(random_blocks({1, 3, 4, 4}, 0.7, 3), g);
  const BlockRows rows = m.keys_of.rows();
  for (int h = 0; h < 3; ++h) {
    const BlockRow one = rows.row(5, h, 3);
    const auto map = views::select(views::select(m.map, 1, h), 1, 3).to_vector<uint8_t>();
    CHECK(one.count == std::count_if(map.begin(), map.end(), [](uint8_t k) { return k != 0; }));
    CHECK(one.partial == std::count(map.begin(), map.end(), uint8_t{1}));
    for (int n = 0; n < one.count; ++n) {
      CHECK(map[static_cast<size_t>(one.index[n])] == (n < one.partial ? 1 : 2));
    }
    CHECK(m.keys_of.rows(true).row(0, h, 3).partial == one.count);
  }
}

TEST_CASE("a list beyond its capacity is an error, one within it is not") {
  const BlockGrid g{32, 32, 4, 4, -1, -1, {}};
  const Tensor all = full({1, 1, 8, 8}, 1, {DType::u8, {}});
  CHECK_THROWS_WITH_AS(block_mask(all, g, {.keys = 7}), doctest::Contains("capacity of 7"), Error);
  CHECK_THROWS_WITH_AS(block_mask(all, g, {.queries = 3}), doctest::Contains("block_mask"), Error);
  CHECK(block_mask(all, g, {.keys = 8, .queries = 100}).keys_of.index.size(3) == 8);
}

TEST_CASE("masks refuse blocks that do not fit the grid") {
  const BlockGrid g{32, 32, 4, 4, -1, -1, {}};
  for (const Tensor& wrong :
       {full({1, 1, 8, 7}, 1, {DType::u8, {}}), full({8, 8}, 1, {DType::u8, {}}),
        full({1, 1, 8, 8}, 1, {DType::f32, {}})}) {
    CHECK_THROWS_WITH_AS(block_mask(wrong, g), doctest::Contains("block_mask:"), Error);
  }
  BlockGrid none = g;
  none.block_q = 0;
  CHECK_THROWS_WITH_AS(block_mask(full({1, 1, 8, 8}, 1, {DType::u8, {}}), none),
                       doctest::Contains("must be positive"), Error);
}
