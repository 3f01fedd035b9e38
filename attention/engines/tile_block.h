// What the kernels of the generic tile share: their arguments, what a block knows of its rows, and
// the gradients of tables.
#pragma once

#include "tessera/attention/engines/tile_tables.h"
#include "tessera/core/cuda/runtime.h"
#include "tessera/core/math.h"

namespace tessera {

// Which tiles of queries one block walks in order, so that it alone adds to a copy of the tables.
// Tiles that differ along a marked axis share no entry of a table: they form classes, each of which
// is dealt to `parts` blocks with a copy each.
struct TableWalk {
  bool batch = true, head = true, tile = true;
  int parts = 1;
};

struct TileTable {
  const void* values = nullptr;
  void* gradients = nullptr;  // (parts, size); null: not wanted
  int64_t size = 0;
};

// Pointers are to the type in which scores are computed: f64, or f32.
struct TileArguments {
  EntryRule rule;
  TileSource source;
  int batch = 0, heads = 0, key_heads = 0;
  double scale = 1;
  TileTensor query, key, value, grad_output;
  TileTensor results[2];  // forward: O; over queries: dQ; over keys: dK, dV
  int parts = 1;          // of the results, of 64 columns each
  int parts_per_block = 1;
  void* logsumexp = nullptr;    // (B, H, N)
  const void* delta = nullptr;  // (B, H, N): ⟨dO, O⟩ − dL
  unsigned long long* entries = nullptr;
  TileTable tables[kMaxTables];
  TableWalk walk;
  bool rows_differ = false;  // no two rows of a tile of queries share an entry of a table
  bool columns_differ = false;
};

// One launch. `blocks` counts those that share a result once.
struct TileLaunch {
  enum class Kernel : uint8_t { forward, over_queries, over_keys };
  enum class Products : uint8_t { f32, f64, halves };  // halves: on tensor cores
  Kernel kernel = Kernel::forward;
  Products products = Products::f32;
  Device device;
  int64_t blocks = 0;
  size_t shared = 0;
  const TileArguments* arguments = nullptr;
};

namespace tile {

constexpr size_t kCellIndexBytes = kTileSide * (kTileSide + 1) * sizeof(int);

template <class T>
struct alignas(16) Shared {
  QueryFacts queries[kTileSide];
  KeyFacts keys[kTileSide];
  PackedWindow windows[kTileSide];  // of queries; for boxes
  PackedPlace places[kTileSide];    // of keys
  IndexRange seen;                  // by any query of a tile
  IndexRange common;  // by all of them; of a tile of keys: [first, last], −1 for nobody
  Candidates candidates;
  int query_rows[kTileSide], key_rows[kTileSide];
  T lse[kTileSide], delta[kTileSide];
  int sums[2 * kTileSide], most;  // of the cells of a table
};

// Which parts of a result are this block's; those that share a result follow one another.
struct Parts {
  int split, first, last;
  __device__ explicit Parts(const TileArguments& a)
      : split((a.parts + a.parts_per_block - 1) / a.parts_per_block),
        first(static_cast<int>(blockIdx.x % split) * a.parts_per_block),
        last(min(a.parts, first + a.parts_per_block)) {}
  __device__ int count() const { return last - first; }
};

__device__ inline int parts_of(int width) {
  return (width + kTileSide - 1) / kTileSide;
}

template <class T>
constexpr T kNone = static_cast<T>(-INFINITY);

// What a kernel knows of its block: the tile's side of batch b, query head h and key head kh.
// Layout: which elements of a tile a thread has, element e at (row(e), column(e)); how exp is
// computed.
template <class F, class T, class Layout>
struct Block {
  const TileArguments& a;
  const F& f;
  Shared<T>& shared;
  int b = 0, h = 0, kh = 0;

  __device__ bool in_boxes() const { return a.source.kind == TileKind::boxes; }

  __device__ void set_query(int slot, int i) const {
    shared.query_rows[slot] = i;
    shared.queries[slot] = a.rule.facts_of_query(b, h, i);
    if (in_boxes() && i >= 0 && !a.source.window_of(i, shared.windows[slot])) {
      shared.queries[slot].end = 0;
    }
  }
  // With what the backward knows of a query; one that saw nothing sees nothing.
  __device__ void set_query_of_backward(int slot, int i) const {
    set_query(slot, i);
    if (i < 0) return;
    const int64_t at = (int64_t{b} * a.heads + h) * a.rule.queries + i;
    shared.lse[slot] = static_cast<const T*>(a.logsumexp)[at];
    shared.delta[slot] = static_cast<const T*>(a.delta)[at];
    if (shared.lse[slot] == kNone<T>) shared.queries[slot].end = 0;
  }
  __device__ void set_key(int slot, int j) const {
    shared.key_rows[slot] = j;
    shared.keys[slot] = a.rule.facts_of_key(b, h, j);
    if (in_boxes() && j >= 0) shared.places[slot] = a.source.place_of(j);
  }
  // A tile of queries with what it may meet; all threads.
  template <bool kBackward>
  __device__ void set_queries(int tile) const {
    const int slot = static_cast<int>(threadIdx.x);
    __syncthreads();
    if (slot == 0) {
      shared.seen = {INT_MAX, 0};
      shared.common = {0, INT_MAX};
    }
    __syncthreads();
    if (slot < kTileSide) {
      const int i = a.source.row(a.rule, Side::queries, tile, slot);
      kBackward ? set_query_of_backward(slot, i) : set_query(slot, i);
      const QueryFacts& q = shared.queries[slot];
      atomicMax(&shared.common.begin, q.begin);
      atomicMin(&shared.common.end, q.end);
      if (q.begin < q.end) {
        atomicMin(&shared.seen.begin, q.begin);
        atomicMax(&shared.seen.end, q.end);
      }
    }
    __syncthreads();
    set_candidates(Side::queries, tile);
  }
  __device__ void set_keys(int tile) const {
    const int slot = static_cast<int>(threadIdx.x);
    __syncthreads();
    if (slot == 0) shared.common = {INT_MAX, 0};
    __syncthreads();
    if (slot < kTileSide) {
      const int j = a.source.row(a.rule, Side::keys, tile, slot);
      set_key(slot, j);
      atomicMin(&shared.common.begin, j);
      atomicMax(&shared.common.end, j);
    }
    set_candidates(Side::keys, tile);
  }
  __device__ void set_candidates(Side side, int tile) const {
    if (threadIdx.x == 0) {
      shared.candidates = a.source.candidates(a.rule, side, b, h, tile, shared.seen);
    }
    __syncthreads();
  }
  // Candidate n of a tile of `side`.
  __device__ int candidate(Side side, int n) const {
    return a.source.candidate(side, shared.candidates, n);
  }

  __device__ Operand queries(const TileTensor& x) const {
    return {x, x.at(b, h), shared.query_rows};
  }
  __device__ Operand keys(const TileTensor& x) const { return {x, x.at(b, kh), shared.key_rows}; }

  // Which of the thread's elements count, a bit each. kQueries: rows are queries.
  template <bool kQueries>
  __device__ unsigned visible() const {
    unsigned mask = 0;
#pragma unroll
    for (int e = 0; e < Layout::kCount; ++e) {
      const int query = kQueries ? Layout::row(e) : Layout::column(e);
      const int key = kQueries ? Layout::column(e) : Layout::row(e);
      const bool sees = a.rule.visible(shared.queries[query], shared.keys[key]) &&
                        (!in_boxes() || shared.windows[query].contains(shared.places[key]));
      if (sees) mask |= 1u << e;
    }
    return mask;
  }

  // The next tile of the other side: which of the thread's elements count; false if none of the
  // block's do.
  __device__ bool meet_keys(int first, unsigned& mask) const {
    const int slot = static_cast<int>(threadIdx.x);
    bool inside = true;
    __syncthreads();
    if (slot < kTileSide) {
      const int j = candidate(Side::queries, first + slot);
      set_key(slot, j);
      inside = shared.common.contains(j);
    }
    return find_visible<true>(inside, mask);
  }
  __device__ bool meet_queries(int first, unsigned& mask) const {
    const int slot = static_cast<int>(threadIdx.x);
    bool inside = true;
    __syncthreads();
    if (slot < kTileSide) {
      set_query_of_backward(slot, candidate(Side::keys, first + slot));
      const QueryFacts& q = shared.queries[slot];
      inside = q.begin <= shared.common.begin && shared.common.end < q.end;
    }
    return find_visible<false>(inside, mask);
  }
  // `inside`: what this thread has set lets the tile count whole, as far as ranges say all.
  template <bool kQueries>
  __device__ bool find_visible(bool inside, unsigned& mask) const {
    if (__syncthreads_and(inside && a.rule.is_range() && !in_boxes()) != 0) {
      mask = ~0u >> (32 - Layout::kCount);
      return true;
    }
    mask = visible<kQueries>();
    return __syncthreads_or(static_cast<int>(mask)) != 0;
  }

  // Which tile the block has, with its heads.
  __device__ int begin_forward(const Parts& parts) {
    const int tiles = a.source.tiles(a.rule, Side::queries);
    const int head = static_cast<int>(blockIdx.x / parts.split / tiles);
    b = head / a.heads;
    h = head % a.heads;
    kh = h / (a.heads / a.key_heads);
    return static_cast<int>(blockIdx.x / parts.split % tiles);
  }
  __device__ int begin_over_keys(const Parts& parts) {
    const int tiles = a.source.tiles(a.rule, Side::keys);
    const int head = static_cast<int>(blockIdx.x / parts.split / tiles);
    b = head / a.key_heads;
    kh = head % a.key_heads;
    return static_cast<int>(blockIdx.x / parts.split % tiles);
  }
  // Of a row of the tile, its maximum and Σ exp(score − maximum).
  __device__ void store_lse(int row, T top, T total) const {
    const int query = shared.query_rows[row];
    if (query < 0) return;
    static_cast<T*>(a.logsumexp)[(int64_t{b} * a.heads + h) * a.rule.queries + query] =
        total == 0 ? kNone<T> : top + math::log(total);
  }
  __device__ void count(int entries) const {
    entries = cuda::warp_reduce(entries, cuda::Sum());
    if (threadIdx.x % cuda::kWarp == 0 && entries > 0) {
      atomicAdd(a.entries, static_cast<unsigned long long>(entries));
    }
  }

  using Features = detail::ScoreFeatures<F, T>;
  __device__ Features features(int query, int key) const {
    const QueryFacts& q = shared.queries[query];
    const KeyFacts& k = shared.keys[key];
    const T* tables[kMaxTables];
#pragma unroll
    for (int n = 0; n < kMaxTables; ++n) tables[n] = static_cast<const T*>(a.tables[n].values);
    return Features(f, {b, h, q.index, k.index, q.position, k.position}, tables);
  }
  using Index = std::make_index_sequence<Features::kCount>;

  __device__ T score(T product, int query, int key) const {
    return detail::score_value(f, product * static_cast<T>(a.scale), features(query, key).values,
                               Index{});
  }

  // One visible entry of the backward: the probability, and the gradient with respect to the score
  // before and after the functor.
  struct Entry {
    T probability, slope, scored_slope;
  };
  __device__ Entry entry(T score, T product, int query, int key) const {
    const Features x = features(query, key);
    const T p = Layout::exp(detail::score_value(f, score, x.values, Index{}) - shared.lse[query]);
    const T g = p * (product - shared.delta[query]);
    return {p, g * detail::score_slope(f, score, x.values, -1, Index{}), g};
  }
};

// The gradients of the tables from a tile: score(e) before the functor and slope(e) after it of the
// thread's elements. `values`: room for the cells that nobody reads any more; `indices`: other
// room.
template <class F, class T, class L, class Scores, class Slopes>
__device__ void add_tables(const Block<F, T, L>& block, const Scores& score, const Slopes& slope,
                           unsigned mask, int copy, void* values, void* indices) {
  using Features = typename Block<F, T, L>::Features;
  using Index = typename Block<F, T, L>::Index;
  Shared<T>& shared = block.shared;
  const Cells<T> cells{static_cast<T(*)[Cells<T>::kRow]>(values),
                       static_cast<int(*)[Cells<T>::kRow]>(indices), shared.sums, &shared.most,
                       block.a.rows_differ      ? Lines::rows
                       : block.a.columns_differ ? Lines::columns
                                                : Lines::diagonals};
  const bool all_differ = block.a.rows_differ && block.a.columns_differ;
#pragma unroll
  for (int k = 0; k < Features::kTables; ++k) {
    const TileTable& table = block.a.tables[k];
    if (table.gradients == nullptr) continue;
    T* sum = static_cast<T*>(table.gradients) + copy * table.size;
    __syncthreads();
#pragma unroll
    for (int e = 0; e < L::kCount; ++e) {
      const int r = L::row(e), c = L::column(e);
      int64_t index = -1;
      T value = 0;
      if ((mask >> e & 1) != 0) {
        const Features x = block.features(r, c);
        index = x.index[k];
        value = slope(e) * detail::score_slope(block.f, score(e), x.values, k, Index{});
      }
      if (all_differ) {
        if (index >= 0) sum[index] += value;
      } else {
        cells.index[r][c] = static_cast<int>(index);
        cells.value[r][c] = value;
      }
    }
    if (!all_differ) add_cells(cells, sum);
  }
}

// The tiles of queries that a block walks in the backward.
struct Walk {
  const TableWalk& w;
  int batch, heads, tiles;
  int copy;    // of the tables: the block adds to it, and begins with this item of its class
  int64_t of;  // its class

  __device__ Walk(const TileArguments& a, const Parts& parts)
      : w(a.walk),
        batch(a.batch),
        heads(a.heads),
        tiles(a.source.tiles(a.rule, Side::queries)),
        copy(static_cast<int>(blockIdx.x / parts.split % a.walk.parts)),
        of(blockIdx.x / parts.split / a.walk.parts) {}

  // Of a class.
  __device__ int64_t length() const {
    return int64_t{w.batch ? 1 : batch} * (w.head ? 1 : heads) * (w.tile ? 1 : tiles);
  }
  // The tile, with its head and batch.
  __device__ int find(int64_t item, int& h, int& b) const {
    int64_t rest = of;
    auto take = [&](bool by_class, int size) {
      int64_t& from = by_class ? rest : item;
      const int at = static_cast<int>(from % size);
      from /= size;
      return at;
    };
    const int tile = take(w.tile, tiles);
    h = take(w.head, heads);
    b = take(w.batch, batch);
    return tile;
  }
};

}  // namespace tile

}  // namespace tessera
