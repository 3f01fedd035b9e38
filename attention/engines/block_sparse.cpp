#include "tessera/attention/engines/block_sparse.h"

#include <numeric>

#include "tessera/attention/engines/scores.h"
#include "tessera/attention/engines/sparse_cuda.h"
#include "tessera/attention/engines/tiles.h"
#include "tessera/attention/patterns.h"
#include "tessera/autograd/op.h"
#include "tessera/autograd/ops/comparison.h"
#include "tessera/autograd/registry.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"

namespace tessera {
namespace {

// Queries of a block in order, in tiles of at most kTileQueries; the keys of its blocks in order.
Tiling block_tiling(const BlockMask& mask) {
  const BlockGrid& g = mask.grid;
  const int64_t per_block = (g.block_q + kTileQueries - 1) / kTileQueries;
  auto fill = [mask, per_block](int64_t b, int64_t h, int64_t t, Tile& tile) {
    const BlockGrid& grid = mask.grid;
    const int64_t block = t / per_block;
    const int64_t begin = block * grid.block_q + t % per_block * kTileQueries;
    const int64_t end = std::min({begin + kTileQueries, (block + 1) * grid.block_q, grid.queries});
    tile.queries.resize(static_cast<size_t>(std::max<int64_t>(0, end - begin)));
    std::iota(tile.queries.begin(), tile.queries.end(), static_cast<int32_t>(begin));
    tile.keys.clear();
    const Tensor& map = mask.map;
    const uint8_t* row = map.data<uint8_t>() + (map.size(0) == 1 ? 0 : b * map.stride(0)) +
                         (map.size(1) == 1 ? 0 : h * map.stride(1)) + block * map.stride(2);
    for (int64_t j = 0; j < map.size(3); ++j) {
      if (row[j] == 0) continue;
      const int64_t last = std::min((j + 1) * grid.block_k, grid.keys);
      for (int64_t k = j * grid.block_k; k < last; ++k)
        tile.keys.push_back(static_cast<int32_t>(k));
    }
  };
  return {g.query_blocks() * per_block, fill};
}

// Inputs: query, key, value, the score's tables.
struct BlockSparseAttention {
  static constexpr std::string_view name = "block_sparse_attention";
  BlockMask mask;
  AttentionOptions options;  // with the mask's window

  TensorList forward(Forward& f, const TensorList& in) const {
    const AttentionResult r = compute(in);
    f.save_output(r.output, 0);
    f.save_output(r.logsumexp, 1);
    return {r.output, r.logsumexp};
  }

  TensorList definition(const TensorList& in) const {
    const AttentionResult r =
        block_sparse_attention_reference(in[0], in[1], in[2], mask, options_with(in));
    return {r.output, r.logsumexp};
  }

  void backward(Backward& b) const {
    const Tensor grad_lse = b.has_grad(1) ? kernels::contiguous(b.grad(1)) : Tensor();
    const TensorList in = b.input_list();
    const AttentionResult result{b.saved(0), b.saved(1)};
    if constexpr (kCuda) {
      if (is_fast(in)) {
        const DenseGradients g =
            sparse_backward_cuda(in[0], in[1], in[2], result, b.grad(0), grad_lse, options, &mask);
        b.add(0, g.query);
        b.add(1, g.key);
        b.add(2, g.value);
        return;
      }
    }
    TensorList keep;
    const AttentionGradients g = attend_tiles_backward(tiled(in, keep), result, b.grad(0), grad_lse,
                                                       engine::wants_tables(b));
    b.add(0, g.query);
    b.add(1, g.key);
    b.add(2, g.value);
    for (size_t k = 0; k < g.tables.size(); ++k) b.add(static_cast<int>(3 + k), g.tables[k]);
  }

 private:
  AttentionOptions options_with(const TensorList& in) const {
    AttentionOptions o = options;
    if (!o.score.is_identity()) o.score = o.score.with({in.begin() + 3, in.end()});
    return o;
  }
  bool is_fast(const TensorList& in) const {
    return in[0].device().is_cuda() && has_sparse_tiles(in[0], in[2], options, &mask);
  }
  AttentionResult compute(const TensorList& in) const {
    if constexpr (kCuda) {
      if (is_fast(in)) {
        return sparse_forward_cuda(in[0], in[1], in[2], options, &mask);
      }
    }
    TensorList keep;
    return attend_tiles(tiled(in, keep));
  }
  TiledAttention tiled(const TensorList& in, TensorList& keep) const {
    const AttentionOptions o = options_with(in);
    const EntryRule rule(name, o, in[0].shape(), in[1].shape(), in[0].device(), keep);
    TiledAttention a{in[0], in[1], in[2], o.scale, rule, o.score};
    if (in[0].device().is_cuda()) {
      a.source = tiles_of(mask);
    } else {
      a.tiling = block_tiling(mask);
    }
    return a;
  }
};

void check_mask(const Tensor& query, const Tensor& key, const BlockMask& mask,
                const AttentionOptions& o) {
  const BlockGrid& g = mask.grid;
  const Tensor& map = mask.map;
  check(map.defined(), "block_sparse_attention: the mask is empty");
  check(g.queries == query.size(2) && g.keys == key.size(2),
        "block_sparse_attention: the mask is for {} queries and {} keys, got {} and {}", g.queries,
        g.keys, query.size(2), key.size(2));
  check((map.size(0) == 1 || map.size(0) == query.size(0)) &&
            (map.size(1) == 1 || map.size(1) == query.size(1)),
        "block_sparse_attention: the mask has {} batches and {} heads, the query {} and {}; each "
        "must be equal or 1",
        map.size(0), map.size(1), query.size(0), query.size(1));
  check(g.device == query.device(), "block_sparse_attention: the mask is on {}, the query on {}",
        g.device, query.device());
  check(!g.has_window() || (!o.query_positions.defined() && !o.key_positions.defined()),
        "block_sparse_attention: positions do not go with a mask that has a window ({}, {})",
        g.left, g.right);
}

// The options with the mask's window in them.
AttentionOptions combined(const BlockGrid& grid, AttentionOptions o) {
  auto nearer = [](int64_t a, int64_t b) { return a < 0 ? b : b < 0 ? a : std::min(a, b); };
  o.left = nearer(o.left, grid.left);
  o.right = o.causal ? o.right : nearer(o.right, grid.right);
  return o;
}

// A sample's mask, made on the device of its inputs.
using MakeMask = std::function<BlockMask(BlockGrid grid, const TensorList& extra)>;
using MakeOptions = std::function<AttentionOptions(const TensorList& extra)>;

OpSample sample(
    const char* label, const Shape& q, const Shape& k, BlockGrid grid, const MakeMask& mask,
    const TensorList& extra = {},
    const MakeOptions& options = [](const TensorList&) { return AttentionOptions{}; }) {
  TensorList inputs{samples::strided(samples::normal(q)), samples::normal(k, 1),
                    samples::normal(k, 2)};
  inputs.insert(inputs.end(), extra.begin(), extra.end());
  grid.queries = q[2];
  grid.keys = k[2];
  auto with = [=](auto attention) {
    return [=](const TensorList& in) {
      const TensorList rest(in.begin() + 3, in.end());
      BlockGrid g = grid;
      g.device = in[0].device();
      const AttentionResult r = attention(in[0], in[1], in[2], mask(g, rest), options(rest));
      // −inf has no numerical derivative.
      return TensorList{r.output, masked_fill(r.logsumexp, eq(r.logsumexp, -INFINITY), 0)};
    };
  };
  return {label, inputs, with(block_sparse_attention), with(block_sparse_attention_reference)};
}

OpSample sample(const char* label, const Shape& x, const BlockGrid& grid, const MakeMask& mask,
                const TensorList& extra = {}) {
  return sample(label, x, x, grid, mask, extra);
}

Tensor random_blocks(const Shape& shape) {
  return samples::integers(shape, 0, 2).to(DType::u8);
}
Tensor ids(const Shape& shape, int64_t low, int64_t high, uint64_t salt = 0) {
  return samples::integers(shape, low, high, salt).to(DType::i32);
}

BlockMask by_map(const BlockGrid& g, const TensorList& x) {
  return block_mask(x[0], g);
}
BlockMask everything(const BlockGrid& g, const TensorList&) {
  return all_blocks(g);
}

std::vector<OpSample> pattern_samples() {
  using List = const TensorList&;
  const Shape x{1, 2, 9, 3};
  const BlockGrid causal{.block_q = 2, .block_k = 2, .right = 0};
  return {
      sample("causal", x, causal, everything),
      sample("sliding window", x, {.block_q = 2, .block_k = 4, .left = 3, .right = 1}, everything),
      sample("sinks and a window", x, causal,
             [](const BlockGrid& g, List) { return sink_blocks(g, 1, 3); }),
      sample("strided", {1, 4, 9, 3}, {1, 2, 9, 3}, causal,
             [](const BlockGrid& g, List) {
               return strided_blocks(g, {.heads = 4, .key_heads = 2, .local = 1, .stride = 3});
             }),
      sample("vertical and slash", x, causal,
             [](const BlockGrid& g, List e) { return vertical_slash_blocks(g, e[0], e[1]); },
             {ids({1, 2, 2}, -1, 9), ids({1, 1, 2}, -1, 9)}),
      sample("highest scores", x, causal,
             [](const BlockGrid& g, List e) { return top_blocks(g, e[0].detach(), 2); },
             {samples::integers({1, 2, 5, 5}, 0, 4).to(DType::f32)}),
      sample("threshold", x, causal,
             [](const BlockGrid& g, List e) { return threshold_blocks(g, e[0].detach(), 2); },
             {samples::integers({1, 2, 5, 5}, 0, 4).to(DType::f32)}),
      sample("listed", x, {.block_q = 2, .block_k = 2},
             [](const BlockGrid& g, List e) { return listed_blocks(g, e[0]); },
             {ids({1, 2, 5, 2}, -1, 5)}),
      sample("union", x, causal,
             [](const BlockGrid& g, List e) {
               return union_of({sink_blocks(g, 1, 1), block_mask(e[0], g)});
             },
             {random_blocks({1, 2, 5, 5})}),
      sample("mixture", x, causal,
             [](const BlockGrid& g, List) {
               return mixture_of({all_blocks(g), sink_blocks(g, 2, 1)}, {1, 0});
             }),
  };
}

std::vector<OpSample> all_samples() {
  using List = const TensorList&;
  const BlockGrid small{.block_q = 2, .block_k = 3};
  std::vector<OpSample> list = pattern_samples();
  for (const OpSample& s : {
           sample("any blocks", {2, 2, 7, 3}, small, by_map, {random_blocks({2, 2, 4, 3})}),
           sample("shared by batches", {2, 2, 7, 3}, small, by_map, {random_blocks({1, 2, 4, 3})}),
           sample("shared by heads", {2, 4, 7, 3}, {2, 2, 8, 3}, small, by_map,
                  {random_blocks({2, 1, 4, 3})}),
           sample("blocks longer than the sequence", {1, 1, 5, 3}, {.right = 0}, everything),
           sample("no blocks", {1, 1, 4, 3}, {.block_q = 2, .block_k = 2},
                  [](const BlockGrid&g, List) {
                    return top_blocks(g, full({1, 1, 2, 2}, -INFINITY, {DType::f32, g.device}), 1,
                                      false);
                  }),
           sample("no queries", {1, 1, 0, 2}, {1, 1, 3, 2}, small, everything),
           sample("lengths", {2, 1, 7, 3}, {2, 1, 7, 3}, small, by_map,
                  {random_blocks({1, 1, 4, 3}), ids({2}, 2, 7)},
                  [](List e) { return AttentionOptions{.causal = true, .key_lengths = e[1]}; }),
           sample("positions", {1, 2, 6, 3}, {1, 2, 6, 3}, small, by_map,
                  {random_blocks({1, 1, 3, 2}), ids({1, 1, 6}, 0, 9)},
                  [](List e) {
                    return AttentionOptions{
                        .left = 3, .query_positions = e[1], .key_positions = e[1]};
                  }),
           sample("softcap", {1, 2, 7, 3}, {1, 2, 7, 3}, small, by_map,
                  {random_blocks({1, 1, 4, 3})},
                  [](List) { return AttentionOptions{.score = softcap(0.7)}; }),
           sample("offset bias", {1, 2, 7, 3}, {1, 2, 7, 3}, small, by_map,
                  {random_blocks({1, 2, 4, 3}), samples::normal({2, 5}, 3)},
                  [](List e) { return AttentionOptions{.score = offset_bias(e[1], 2)}; }),
       }) {
    list.push_back(s);
  }
  return list;
}

BlockMask mask_for(int64_t queries, int64_t keys, int64_t right = -1) {
  return all_blocks({.queries = queries, .keys = keys, .block_q = 2, .block_k = 2, .right = right});
}

const RegisterOp row{{
    .name = "block_sparse_attention",
    .formula = "O = softmax(f(scale Q Kᵀ)) V, L = logsumexp(f(scale Q Kᵀ)) over blocks of a mask",
    .source = "Child et al. 2019; Dao et al. 2022",
    .samples = all_samples,
    .wrong_calls = {[] {
                      const Tensor x = samples::normal({1, 2, 4, 4});
                      block_sparse_attention(x, x, x, mask_for(4, 5));
                    },
                    [] {
                      const Tensor x = samples::normal({1, 2, 4, 4});
                      block_sparse_attention(x, x, x, BlockMask{});
                    },
                    [] {
                      const Tensor x = samples::normal({1, 2, 4, 4});
                      const Tensor three = samples::integers({1, 3, 2, 2}, 0, 2).to(DType::u8);
                      const BlockGrid g{.queries = 4, .keys = 4, .block_q = 2, .block_k = 2};
                      block_sparse_attention(x, x, x, block_mask(three, g));
                    },
                    [] {
                      const Tensor x = samples::normal({1, 2, 4, 4});
                      block_sparse_attention(x, x, x, mask_for(4, 4, 0),
                                             {.query_positions = ids({1, 1, 4}, 0, 4)});
                    },
                    [] {
                      const Tensor x = samples::normal({1, 2, 4, 4});
                      block_sparse_attention(x, x, samples::normal({1, 2, 3, 4}), mask_for(4, 4));
                    }},
}};

}  // namespace

AttentionResult block_sparse_attention(const Tensor& query, const Tensor& key, const Tensor& value,
                                       const BlockMask& mask, const AttentionOptions& options) {
  engine::check_inputs("block_sparse_attention", query, key, value);
  check_mask(query, key, mask, options);
  AttentionOptions o = combined(mask.grid, options);
  o.scale = engine::scale_of(options, query);
  TensorList inputs{query, key, value};
  for (const Tensor& x :
       engine::score_tables("block_sparse_attention", options.score, query, key.size(2))) {
    inputs.push_back(x);
  }
  TensorList out = apply_list(BlockSparseAttention{mask, o}, inputs);
  return {out[0], out[1]};
}

}  // namespace tessera
