#include "tessera/attention/patterns.h"

#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/comparison.h"
#include "tessera/autograd/ops/elementwise.h"
#include "tessera/autograd/ops/indexing.h"
#include "tessera/autograd/ops/scan.h"
#include "tessera/autograd/ops/sort.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/tape.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/view.h"

namespace tessera {
namespace {

// The number of every query block as a column (1, 1, Q, 1), of every key block as a row (1, 1, 1,
// K); i64.
Tensor numbers(const Shape& shape, Device device) {
  const auto n = static_cast<double>(shape.numel());
  return reshape(arange(0, n, 1, {DType::i64, device}), shape);
}
Tensor query_numbers(const BlockGrid& g) {
  return numbers({1, 1, g.query_blocks(), 1}, g.device);
}
Tensor key_numbers(const BlockGrid& g) {
  return numbers({1, 1, 1, g.key_blocks()}, g.device);
}

double real(int64_t n) {
  return static_cast<double>(n);
}

Tensor every_block(const BlockGrid& g) {
  const Tensor one = full({1, 1, 1, 1}, 1, {DType::u8, g.device});
  return views::expand(one, {1, 1, g.query_blocks(), g.key_blocks()});
}

Tensor is_active(const BlockMask& mask) {
  return ne(mask.map, 0.0);
}

// Blocks that hold an entry at an offset of [−left, right].
Tensor blocks_within(BlockGrid g, int64_t left, int64_t right) {
  g.left = left;
  g.right = right;
  return is_active(all_blocks(g));
}

void check_heads(std::string_view op, std::string_view what, const Tensor& x, int64_t rank,
                 const BlockGrid& grid) {
  check(x.rank() == rank, "{}: {} is {}; it must have {} dimensions, (B or 1, H or 1, …)", op, what,
        x.shape(), rank);
  check(x.device() == grid.device, "{}: {} is on {}, the grid on {}", op, what, x.device(),
        grid.device);
}

void check_indices(std::string_view op, std::string_view what, const Tensor& x) {
  check(x.dtype() == DType::i32 || x.dtype() == DType::i64, "{}: {} is {}, wants i32 or i64", op,
        what, x.dtype());
}

// u8 (…, n), 1 at the indices (…, m) of the last dimension; −1 marks nothing.
Tensor marks(const Tensor& indices, int64_t n) {
  Shape shape = indices.shape();
  shape.back() = n + 1;
  const Options bytes{DType::u8, indices.device()};
  const Tensor after_nothing = indices.to(DType::i64) + 1;
  const Tensor marked =
      scatter(zeros(shape, bytes), -1, after_nothing, ones(indices.shape(), bytes));
  return slice(marked, -1, 1, n + 1);
}

// How many of marks (B, H, n) lie in [begin, end), i64 (1, 1, Q|1, K|1), both clamped to [0, n].
Tensor marks_within(const Tensor& marked, const Tensor& begin, const Tensor& end) {
  const int64_t n = marked.size(2);
  const Tensor up_to = cumsum(marked, 2);
  const Tensor none = zeros({marked.size(0), marked.size(1), 1}, {DType::i64, marked.device()});
  const Tensor before = concat({none, up_to}, 2);
  auto read = [&](const Tensor& at) {
    const Tensor inside = clamp(at, 0, real(n));
    const Tensor flat = index_select(before, 2, reshape(inside, {-1}));
    return reshape(flat, {marked.size(0), marked.size(1), at.size(2), at.size(3)});
  };
  return read(end) - read(begin);
}

Tensor marked_keys(const BlockGrid& g, const Tensor& vertical) {
  const Tensor begin = key_numbers(g) * real(g.block_k);
  return gt(marks_within(marks(vertical, g.keys), begin, begin + real(g.block_k)), 0.0);
}

Tensor marked_distances(const BlockGrid& g, const Tensor& slash) {
  const int64_t ahead = g.keys - g.queries;
  const Tensor first_query = query_numbers(g) * real(g.block_q) + real(ahead);
  const Tensor last_query =
      clamp(first_query + real(g.block_q - 1), real(-g.queries - 1), real(g.keys - 1));
  const Tensor first_key = key_numbers(g) * real(g.block_k);
  const Tensor last_key =
      clamp(first_key + real(g.block_k - 1), 0, real(std::max<int64_t>(0, g.keys - 1)));
  const Tensor distances = marks(slash, g.keys);
  return gt(marks_within(distances, first_query - last_key, last_query - first_key + 1), 0.0);
}

Tensor top_of(const Tensor& scores, int64_t k) {
  return marks(topk(scores, std::min(k, scores.size(3))).indices, scores.size(3));
}

// Scores with −inf at hidden blocks and, if wanted, +inf at the diagonal.
Tensor ranked(std::string_view op, const BlockGrid& g, const Tensor& scores, bool diagonal) {
  check_heads(op, "scores", scores, 4, g);
  check(scores.size(2) == g.query_blocks() && scores.size(3) == g.key_blocks(),
        "{}: scores are {}, wants (B, H, {}, {})", op, scores.shape(), g.query_blocks(),
        g.key_blocks());
  const Tensor hidden = logical_not(is_active(all_blocks(g)));
  const Tensor x = masked_fill(scores, hidden, -INFINITY);
  return diagonal ? masked_fill(x, blocks_within(g, 0, 0), INFINITY) : x;
}

bool same_sizes(const BlockGrid& a, const BlockGrid& b) {
  return a.queries == b.queries && a.keys == b.keys && a.block_q == b.block_q &&
         a.block_k == b.block_k && a.device == b.device;
}

BlockGrid widest(std::string_view op, const std::vector<BlockMask>& masks) {
  check(!masks.empty(), "{}: no masks given", op);
  BlockGrid g = masks[0].grid;
  for (const BlockMask& m : masks) {
    check(same_sizes(g, m.grid),
          "{}: masks over {} × {} tokens in blocks of {} × {} and {} × {} in {} × {}", op,
          g.queries, g.keys, g.block_q, g.block_k, m.grid.queries, m.grid.keys, m.grid.block_q,
          m.grid.block_k);
    g.left = g.left < 0 || m.grid.left < 0 ? -1 : std::max(g.left, m.grid.left);
    g.right = g.right < 0 || m.grid.right < 0 ? -1 : std::max(g.right, m.grid.right);
  }
  return g;
}

}  // namespace

BlockMask all_blocks(const BlockGrid& grid) {
  return block_mask(every_block(grid), grid);
}

BlockMask sink_blocks(const BlockGrid& grid, int64_t sink, int64_t window) {
  check(sink >= 0 && window >= 0,
        "sink_blocks: {} sinks and a window of {}; neither may be negative", sink, window);
  const NoGrad off;
  const Tensor is_sink = lt(key_numbers(grid) * real(grid.block_k), real(sink));
  if (window == 0) return block_mask(logical_and(is_sink, every_block(grid)), grid);
  return block_mask(logical_or(is_sink, blocks_within(grid, window - 1, 0)), grid);
}

BlockMask strided_blocks(const BlockGrid& grid, const StridedBlocks& p) {
  const int64_t ahead = grid.keys - grid.queries;
  check(grid.block_q == grid.block_k && ahead >= 0 && ahead % grid.block_k == 0,
        "strided_blocks: blocks of {} × {} whose first query is at {}; blocks must be square and "
        "begin at its multiples",
        grid.block_q, grid.block_k, ahead);
  check(p.local >= 1 && p.stride >= 1 && p.offset >= 0 && p.dense_groups >= 0,
        "strided_blocks: local {}, stride {}, offset {}, dense_groups {}", p.local, p.stride,
        p.offset, p.dense_groups);
  check(p.key_heads >= 1 && p.heads % p.key_heads == 0,
        "strided_blocks: {} heads are not a multiple of {} key heads", p.heads, p.key_heads);
  check(!p.same_for_all || p.dense_groups == 0, "strided_blocks: same_for_all, yet {} dense groups",
        p.dense_groups);
  const NoGrad off;
  const int64_t heads = p.same_for_all ? 1 : p.heads;
  const Tensor i = query_numbers(grid) + real(ahead / grid.block_k), j = key_numbers(grid);
  auto every = [&](const Tensor& x) {
    return eq(remainder(x, full({}, real(p.stride), {DType::i64, grid.device})), 0.0);
  };
  Tensor active;
  if (grid.right == 0) {
    const Tensor h = numbers({1, p.same_for_all ? 1 : p.key_heads, 1, 1, 1}, grid.device);
    const Tensor groups = expand(h, {1, h.size(1), heads / h.size(1), 1, 1});
    const Tensor group = reshape(groups, {1, heads, 1, 1});
    const double step = real(std::max<int64_t>(1, p.stride / p.heads));
    const Tensor stripe = every(j + group * step + real(p.offset));
    active = logical_or(stripe, lt(i - j, real(p.local)));
    active = logical_or(active, ge(group, real(p.key_heads - p.dense_groups)));
  } else {
    active = every(clamp(abs(i - j) - real(p.local - 1), 0, 0x1p40));
    if (p.dense_groups > 0) {
      const Tensor h = numbers({1, heads, 1, 1}, grid.device);
      const int64_t dense = p.dense_groups * (p.heads / p.key_heads);
      active = logical_or(active, ge(h, real(heads - dense)));
    }
  }
  return block_mask(active, grid);
}

BlockMask vertical_slash_blocks(const BlockGrid& grid, const Tensor& vertical,
                                const Tensor& slash) {
  for (const auto& [name, x] : {std::pair{"vertical", vertical}, {"slash", slash}}) {
    check_heads("vertical_slash_blocks", name, x, 3, grid);
    check_indices("vertical_slash_blocks", name, x);
  }
  const NoGrad off;
  return block_mask(logical_or(marked_keys(grid, vertical), marked_distances(grid, slash)), grid);
}

BlockMask top_blocks(const BlockGrid& grid, const Tensor& scores, int64_t k, bool diagonal) {
  check(k >= 1, "top_blocks: k is {}; it must be positive", k);
  const NoGrad off;
  return block_mask(top_of(ranked("top_blocks", grid, scores, diagonal), k), grid, {.keys = k});
}

BlockMask threshold_blocks(const BlockGrid& grid, const Tensor& scores, double threshold,
                           int64_t minimum, bool diagonal) {
  check(minimum >= 0, "threshold_blocks: the minimum is {}; it must not be negative", minimum);
  const NoGrad off;
  const Tensor rank = ranked("threshold_blocks", grid, scores, diagonal);
  Tensor active = gt(rank, threshold);
  if (minimum > 0) active = logical_or(active, top_of(rank, minimum));
  return block_mask(active, grid);
}

BlockMask listed_blocks(const BlockGrid& grid, const Tensor& lists) {
  check_heads("listed_blocks", "lists", lists, 4, grid);
  check_indices("listed_blocks", "lists", lists);
  check(lists.size(2) == grid.query_blocks(), "listed_blocks: lists are {}, wants (B, H, {}, n)",
        lists.shape(), grid.query_blocks());
  const NoGrad off;
  return block_mask(marks(lists, grid.key_blocks()), grid);
}

BlockMask union_of(const std::vector<BlockMask>& masks) {
  const BlockGrid grid = widest("union_of", masks);
  const NoGrad off;
  Tensor active = is_active(masks[0]);
  for (size_t m = 1; m < masks.size(); ++m) active = logical_or(active, is_active(masks[m]));
  return block_mask(active, grid);
}

BlockMask mixture_of(const std::vector<BlockMask>& masks, const std::vector<int64_t>& choice) {
  const BlockGrid grid = widest("mixture_of", masks);
  const auto heads = static_cast<int64_t>(choice.size());
  int64_t batch = 1;
  for (const BlockMask& m : masks) {
    check(m.map.size(1) == 1 || m.map.size(1) == heads,
          "mixture_of: a mask of {} heads, but choices for {}", m.map.size(1), heads);
    batch = std::max(batch, m.map.size(0));
  }
  const Tensor map =
      empty({batch, heads, grid.query_blocks(), grid.key_blocks()}, {DType::u8, grid.device});
  for (int64_t h = 0; h < heads; ++h) {
    const int64_t c = choice[static_cast<size_t>(h)];
    check(c >= 0 && c < static_cast<int64_t>(masks.size()),
          "mixture_of: head {} chooses mask {} of {}", h, c, masks.size());
    const Tensor& from = masks[static_cast<size_t>(c)].map;
    const Tensor head = views::select(from, 1, from.size(1) == 1 ? 0 : h);
    const Tensor to = views::select(map, 1, h);
    kernels::copy(to, views::expand(head, to.shape()));
  }
  return block_mask(map, grid);
}

}  // namespace tessera
