// The heart of the softmax engines: attention by tiles. A tile is some queries and some keys that
// they are multiplied with; an engine is a way to cut attention into tiles. Scores exist one tile
// at a time, results come from an online softmax (Milakov & Gimelshein 2018; Dao et al. 2022,
// "FlashAttention"), gradients from scores computed again and the logsumexp.
#pragma once

#include <span>

#include "tessera/attention/engines/engine.h"
#include "tessera/attention/engines/tile_source.h"

namespace tessera {

constexpr int64_t kTileQueries = 64;  // at most, in a tile

struct Tile {
  std::vector<int32_t> queries;
  std::vector<int32_t> keys;  // −1: nobody; a key that is listed twice counts twice
  // Which places in `keys` a query may see, where an engine knows more than the rule: the runs of
  // query n of the tile, in order, are number run_begin[n] up to run_begin[n + 1]. Empty: all.
  std::vector<IndexRange> runs;
  std::vector<int32_t> run_begin;

  // Rows of the results, where a query may have several: one for each of `queries`; empty: the
  // queries themselves.
  std::vector<int32_t> slots;

  bool has_runs() const { return !run_begin.empty(); }
  std::span<const IndexRange> runs_of(int64_t n) const {
    const auto at = static_cast<size_t>(n);
    return {runs.begin() + run_begin[at], runs.begin() + run_begin[at + 1]};
  }
  const std::vector<int32_t>& results() const { return slots.empty() ? queries : slots; }
};

// Together the tiles of a head hold every row of the results at most once; one in no tile sees
// nothing.
struct Tiling {
  int64_t count = 0;  // per batch and head
  std::function<void(int64_t batch, int64_t head, int64_t index, Tile& tile)> fill;
};

// Queries in order, each tile with all keys that the rule lets them see: dense attention.
Tiling dense_tiling(const EntryRule& rule);

// Inputs of any strides: f32 or f64, on CUDA halves too, which compute in f32. The CPU follows
// `tiling`, CUDA `source`.
struct TiledAttention {
  Tensor query, key, value;
  double scale = 1;
  EntryRule rule;
  Score score;
  Tiling tiling = {};
  int64_t slots = -1;  // rows of the results, and of the gradient of `query`, on the CPU; −1: one
                       // per query
  TileSource source = {};

  int64_t rows() const { return slots < 0 ? query.size(2) : slots; }
};

// Counts the visible entries.
AttentionResult attend_tiles(const TiledAttention& a);

struct AttentionGradients {
  Tensor query, key, value;
  TensorList tables;  // of the score
};
// The same bits for any number of threads and on every run. `grad_logsumexp` may be undefined.
AttentionGradients attend_tiles_backward(const TiledAttention& a, const AttentionResult& forward,
                                         const Tensor& grad_output, const Tensor& grad_logsumexp,
                                         bool wants_tables = true);

}  // namespace tessera
