#include "tessera/attention/engines/block_mask.h"

#include <atomic>

#include "tessera/attention/engines/block_bounds.h"
#include "tessera/attention/engines/block_mask_cuda.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/parallel.h"
#include "tessera/core/view.h"

namespace tessera {
namespace {

uint8_t code(BlockKind kind) {
  return static_cast<uint8_t>(kind);
}

// fn(b, h, r, row): the rows of a (B, H, R, C) tensor of bytes, one after the other.
template <class Fn>
void for_each_row(const Tensor& x, const Fn& fn) {
  const int64_t heads = x.size(1), rows = x.size(2);
  const auto* data = static_cast<const uint8_t*>(x.raw_data());
  parallel_for(x.size(0) * heads * rows, x.numel(), [&](int64_t t) {
    const int64_t b = t / rows / heads, h = t / rows % heads, r = t % rows;
    fn(t, r, data + b * x.stride(0) + h * x.stride(1) + r * x.stride(2));
  });
}

void classify(const Tensor& map, const Tensor& active, const BlockBounds& bounds) {
  auto* to = map.data<uint8_t>();
  const int64_t columns = map.size(3), step = active.stride(3);
  for_each_row(active, [&](int64_t t, int64_t i, const uint8_t* row) {
    for (int64_t j = 0; j < columns; ++j) {
      to[t * columns + j] = code(row[j * step] != 0 ? bounds.kind(i, j) : BlockKind::hidden);
    }
  });
}

// Returns the longest list, cut or not.
int64_t compact(const BlockLists& lists, const Tensor& map) {
  const int64_t columns = map.size(3), step = map.stride(3), capacity = lists.index.size(3);
  auto* counts = lists.counts.data<int32_t>();
  auto* index = lists.index.data<int32_t>();
  std::atomic<int64_t> longest{0};
  for_each_row(map, [&](int64_t t, int64_t, const uint8_t* row) {
    int64_t total = 0;
    for (const BlockKind kind : {BlockKind::partial, BlockKind::full}) {
      const int64_t before = total;
      for (int64_t j = 0; j < columns; ++j) {
        if (row[j * step] != code(kind)) continue;
        if (total < capacity) index[t * capacity + total] = static_cast<int32_t>(j);
        ++total;
      }
      counts[2 * t + (kind == BlockKind::full ? 1 : 0)] = static_cast<int32_t>(total - before);
    }
    for (int64_t seen = longest; seen < total && !longest.compare_exchange_weak(seen, total);) {
    }
  });
  return longest;
}

void check_grid(const BlockGrid& g) {
  check(g.queries >= 0 && g.keys >= 0 && g.queries < 1 << 30 && g.keys < 1 << 30,
        "block_mask: {} queries and {} keys; each must be in [0, 2^30)", g.queries, g.keys);
  check(g.block_q > 0 && g.block_k > 0, "block_mask: blocks of {} by {}; both must be positive",
        g.block_q, g.block_k);
  check(g.left >= -1 && g.right >= -1,
        "block_mask: the window is ({}, {}); each must be −1 (no bound) or a number of tokens",
        g.left, g.right);
}

// A row's list, and the rest of it 0.
BlockLists empty_lists(const Tensor& map, int64_t capacity) {
  const Options options{DType::i32, map.device()};
  const int64_t room = capacity < 0 ? map.size(3) : std::min(capacity, map.size(3));
  return {empty({map.size(0), map.size(1), map.size(2), 2}, options),
          zeros({map.size(0), map.size(1), map.size(2), room}, options)};
}

BlockLists lists_of(const Tensor& map, int64_t capacity, const Tensor& overflow) {
  const BlockLists lists = empty_lists(map, capacity);
  if constexpr (kCuda) {
    if (map.device().is_cuda()) {
      compact_blocks_cuda(lists, map, overflow);
      return lists;
    }
  }
  const int64_t longest = compact(lists, map);
  check(longest <= lists.index.size(3),
        "block_mask: a list of {} blocks is longer than the capacity of {}", longest,
        lists.index.size(3));
  return lists;
}

}  // namespace

BlockRows BlockLists::rows(bool all_partial) const {
  const int64_t r = counts.size(2);
  return {static_cast<const int32_t*>(counts.raw_data()),
          static_cast<const int32_t*>(index.raw_data()),
          counts.size(0) == 1 ? 0 : counts.size(1) * r,
          counts.size(1) == 1 ? 0 : r,
          static_cast<int>(index.size(3)),
          all_partial};
}

BlockMask block_mask(const Tensor& active, const BlockGrid& grid, BlockCapacity capacity) {
  check_grid(grid);
  check(
      active.rank() == 4 && active.size(2) == grid.query_blocks() &&
          active.size(3) == grid.key_blocks(),
      "block_mask: the active blocks are {}, wants (B, H, {}, {}): {} × {} tokens in blocks of {} "
      "× {}",
      active.shape(), grid.query_blocks(), grid.key_blocks(), grid.queries, grid.keys, grid.block_q,
      grid.block_k);
  check(active.dtype() == DType::boolean || active.dtype() == DType::u8,
        "block_mask: the active blocks are {}, wants bool or u8", active.dtype());
  check(active.device() == grid.device, "block_mask: the active blocks are on {}, the grid on {}",
        active.device(), grid.device);
  BlockMask m{grid, empty(active.shape(), {DType::u8, grid.device}), {}, {}, {}};
  m.overflow = zeros({1}, {DType::i32, grid.device});
  const BlockBounds bounds(grid);
  if (grid.device.is_cpu()) {
    classify(m.map, active, bounds);
  } else if constexpr (kCuda) {
    classify_blocks_cuda(m.map, active, bounds);
  }
  m.keys_of = lists_of(m.map, capacity.keys, m.overflow);
  m.queries_of = lists_of(views::transpose(m.map, 2, 3), capacity.queries, m.overflow);
  return m;
}

bool overflowed(const BlockMask& mask) {
  return mask.overflow.item<int64_t>() != 0;
}

int64_t count_entries(const BlockMask& mask) {
  const BlockBounds bounds(mask.grid);
  const Tensor map = kernels::to_device(mask.map, {});
  const auto* kinds = map.data<uint8_t>();
  const int64_t rows = mask.grid.query_blocks(), columns = mask.grid.key_blocks();
  int64_t total = 0;
  for (int64_t t = 0; t < map.numel(); ++t) {
    if (kinds[t] != 0) total += bounds.entries(t / columns % rows, t % columns);
  }
  return total;
}

}  // namespace tessera
