// The generic tile in plain f32 (of halves too) and f64 arithmetic. Sums of a tile lie in shared
// memory, 64 columns to a part; where a result has more parts than fit, several blocks share it and
// each computes the scores.
#pragma once

#include "tessera/attention/engines/tile_block.h"

namespace tessera::tile {

// What a block has in shared memory: this, its sums, room for the indices of cells.
template <class T>
struct alignas(16) PlainShared {
  Stage<T> stage;
  Shared<T> block;
};

template <class T>
constexpr size_t kPartBytes = kThreads * 16 * sizeof(T);

template <class T>
size_t plain_bytes(int parts_per_block, bool cells) {
  return sizeof(PlainShared<T>) + parts_per_block * kPartBytes<T> + (cells ? kCellIndexBytes : 0);
}

struct PlainLayout {
  static constexpr int kCount = 16;
  static __device__ int row(int e) { return 4 * lane_y() + e / 4; }
  static __device__ int column(int e) { return 4 * lane_x() + e % 4; }
  template <class T>
  static __device__ T exp(T x) {
    return math::exp(x);
  }
};

// Sums over columns of a result: a thread's 4 × 4 elements of each part.
template <class T>
struct Sums {
  Quad<T>* room;
  __device__ Quad<T>& at(int part, int i) const {
    return room[(part * 4 + i) * kThreads + threadIdx.x];
  }
  __device__ void clear(int parts) const {
    for (int n = 0; n < 4 * parts; ++n) room[n * kThreads + threadIdx.x] = Quad<T>{};
  }
  __device__ void add(int part, const Square<T>& c) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      Quad<T> q = at(part, i);
#pragma unroll
      for (int j = 0; j < 4; ++j) q[j] += c[i][j];
      at(part, i) = q;
    }
  }
  __device__ void scale_row(int parts, int i, T factor) const {
    for (int part = 0; part < parts; ++part) {
      Quad<T> q = at(part, i);
#pragma unroll
      for (int j = 0; j < 4; ++j) q[j] *= factor;
      at(part, i) = q;
    }
  }
  // Parts [from, from + parts) of a thread's rows to the columns of `x` from part `first` on.
  __device__ void store(const TileTensor& x, int64_t base, const int* rows, int first, int parts,
                        int from, const T (&factor)[4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = rows[4 * lane_y() + i];
      if (row < 0) continue;
      for (int part = 0; part < parts; ++part) {
        Quad<T> q = at(from + part, i);
#pragma unroll
        for (int j = 0; j < 4; ++j) q[j] *= factor[i];
        store_quad(x, base + row * x.row, (first + part) * kTileSide + 4 * lane_x(), q);
      }
    }
  }
};

template <class F, class T>
struct PlainBlock : Block<F, T, PlainLayout> {
  Stage<T>& stage;
  Sums<T> sums;
  void* cells;
  int turn = 0;

  __device__ PlainBlock(const TileArguments& a, const F& f, char* memory)
      : Block<F, T, PlainLayout>{a, f, reinterpret_cast<PlainShared<T>*>(memory)->block},
        stage(reinterpret_cast<PlainShared<T>*>(memory)->stage),
        sums{reinterpret_cast<Quad<T>*>(memory + sizeof(PlainShared<T>))},
        cells(memory + sizeof(PlainShared<T>) + a.parts_per_block * kPartBytes<T>) {}
};

// The maximum, or sum, over the 16 threads of a row.
template <class T, class Op>
__device__ T over_row(T x, Op op) {
#pragma unroll
  for (int step = 1; step < 16; step *= 2) x = op(x, __shfl_xor_sync(cuda::kAllLanes, x, step));
  return x;
}

// Products become weights of the online softmax; sums of a row shrink to its new maximum.
template <class F, class T>
__device__ void soften(const PlainBlock<F, T>& block, Square<T>& c, unsigned mask, T (&top)[4],
                       T (&total)[4], int parts) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    T best = top[i];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int e = 4 * i + j;
      c[i][j] = (mask >> e & 1) != 0
                    ? block.score(c[i][j], PlainLayout::row(e), PlainLayout::column(e))
                    : kNone<T>;
      best = c[i][j] > best ? c[i][j] : best;
    }
    best = over_row(best, cuda::Max());
    if (best > top[i]) {
      const T shrink = math::exp(top[i] - best);
      total[i] *= shrink;
      block.sums.scale_row(parts, i, shrink);
      top[i] = best;
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      c[i][j] = c[i][j] == kNone<T> ? T{0} : math::exp(c[i][j] - top[i]);
      total[i] += c[i][j];
    }
  }
}

template <class F, class T>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 4 ? 2 : 1)
    forward_kernel(const __grid_constant__ TileArguments a, const F f) {
  extern __shared__ __align__(1024) char memory[];
  PlainBlock<F, T> block(a, f, memory);
  Shared<T>& shared = block.shared;
  const Parts parts(a);
  const int tile = block.begin_forward(parts);
  block.sums.clear(parts.count());
  T top[4], total[4];
  for (int i = 0; i < 4; ++i) {
    top[i] = kNone<T>;
    total[i] = 0;
  }
  block.template set_queries<false>(tile);
  int entries = 0;
  for (int first = 0; first < shared.candidates.count; first += kTileSide) {
    unsigned mask;
    if (!block.meet_keys(first, mask)) continue;
    entries += __popc(mask);
    Square<T> c;
    products(c, block.queries(a.query), block.keys(a.key), block.stage, block.turn);
    soften(block, c, mask, top, total, parts.count());
    set_weights(block.stage, [&](int i, int j) { return c[i][j]; });
    for (int part = parts.first; part < parts.last; ++part) {
      weighted_rows(c, block.keys(a.value), part * kTileSide, block.stage, block.turn);
      block.sums.add(part - parts.first, c);
    }
  }
  __syncthreads();
  T factor[4];
  for (int i = 0; i < 4; ++i) {
    total[i] = over_row(total[i], cuda::Sum());
    factor[i] = total[i] == 0 ? T{0} : 1 / total[i];
    if (parts.first == 0 && lane_x() == 0) block.store_lse(4 * lane_y() + i, top[i], total[i]);
  }
  const TileTensor& out = a.results[0];
  block.sums.store(out, out.at(block.b, block.h), shared.query_rows, parts.first, parts.count(), 0,
                   factor);
  if (parts.first == 0) block.count(entries);
}

// dQ = scale · dS K, and the tables.
template <class F, class T>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 4 ? 2 : 1)
    over_queries_kernel(const __grid_constant__ TileArguments a, const F f) {
  extern __shared__ __align__(1024) char memory[];
  PlainBlock<F, T> block(a, f, memory);
  Shared<T>& shared = block.shared;
  const Parts parts(a);
  const Walk walk(a, parts);
  const T scale = static_cast<T>(a.scale);
  for (int64_t item = walk.copy; item < walk.length(); item += a.walk.parts) {
    const int tile = walk.find(item, block.h, block.b);
    block.kh = block.h / (a.heads / a.key_heads);
    block.template set_queries<true>(tile);
    block.sums.clear(parts.count());
    for (int first = 0; first < shared.candidates.count; first += kTileSide) {
      unsigned mask;
      if (!block.meet_keys(first, mask)) continue;
      Square<T> c, d;
      products(c, block.queries(a.query), block.keys(a.key), block.stage, block.turn);
      products(d, block.queries(a.grad_output), block.keys(a.value), block.stage, block.turn);
      set_weights(block.stage, [&](int i, int j) {
        const int e = 4 * i + j;
        c[i][j] *= scale;
        if ((mask >> e & 1) == 0) return T{0};
        const auto x = block.entry(c[i][j], d[i][j], PlainLayout::row(e), PlainLayout::column(e));
        d[i][j] = x.scored_slope;
        return x.slope;
      });
      if constexpr (Block<F, T, PlainLayout>::Features::kTables > 0) {
        if (parts.first == 0) {
          add_tables(
              block, [&](int e) { return c[e / 4][e % 4]; }, [&](int e) { return d[e / 4][e % 4]; },
              mask, walk.copy, block.stage.left, block.cells);
        }
      }
      for (int part = parts.first; part < parts.last; ++part) {
        weighted_rows(c, block.keys(a.key), part * kTileSide, block.stage, block.turn);
        block.sums.add(part - parts.first, c);
      }
    }
    __syncthreads();
    const T factor[4] = {scale, scale, scale, scale};
    const TileTensor& out = a.results[0];
    block.sums.store(out, out.at(block.b, block.h), shared.query_rows, parts.first, parts.count(),
                     0, factor);
  }
}

// dK = scale · dSᵀ Q and dV = Pᵀ dO; rows are keys, columns queries. Of the parts of the result the
// first are those of dK.
template <class F, class T>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 4 ? 2 : 1)
    over_keys_kernel(const __grid_constant__ TileArguments a, const F f) {
  extern __shared__ __align__(1024) char memory[];
  PlainBlock<F, T> block(a, f, memory);
  Shared<T>& shared = block.shared;
  const Parts parts(a);
  const int key_parts = parts_of(a.results[0].width);
  const int middle = min(max(parts.first, key_parts), parts.last);  // dK before, dV from here on
  const int tile = block.begin_over_keys(parts);
  const T scale = static_cast<T>(a.scale);
  block.sums.clear(parts.count());
  for (int g = 0; g < a.heads / a.key_heads; ++g) {
    block.h = block.kh * (a.heads / a.key_heads) + g;
    block.set_keys(tile);
    for (int first = 0; first < shared.candidates.count; first += kTileSide) {
      unsigned mask;
      if (!block.meet_queries(first, mask)) continue;
      Square<T> c, d;
      products(c, block.keys(a.key), block.queries(a.query), block.stage, block.turn);
      products(d, block.keys(a.value), block.queries(a.grad_output), block.stage, block.turn);
      set_weights(block.stage, [&](int i, int j) {
        const int e = 4 * i + j;
        if ((mask >> e & 1) == 0) return d[i][j] = T{0};
        const auto x =
            block.entry(c[i][j] * scale, d[i][j], PlainLayout::column(e), PlainLayout::row(e));
        d[i][j] = x.probability;
        return x.slope;
      });
      for (int part = parts.first; part < middle; ++part) {
        weighted_rows(c, block.queries(a.query), part * kTileSide, block.stage, block.turn);
        block.sums.add(part - parts.first, c);
      }
      __syncthreads();
      set_weights(block.stage, [&](int i, int j) { return d[i][j]; });
      for (int part = middle; part < parts.last; ++part) {
        weighted_rows(c, block.queries(a.grad_output), (part - key_parts) * kTileSide, block.stage,
                      block.turn);
        block.sums.add(part - parts.first, c);
      }
    }
  }
  __syncthreads();
  const T scales[4] = {scale, scale, scale, scale}, ones[4] = {1, 1, 1, 1};
  const auto &dk = a.results[0], &dv = a.results[1];
  block.sums.store(dk, dk.at(block.b, block.kh), shared.key_rows, parts.first, middle - parts.first,
                   0, scales);
  block.sums.store(dv, dv.at(block.b, block.kh), shared.key_rows, middle - key_parts,
                   parts.last - middle, middle - parts.first, ones);
}

}  // namespace tessera::tile
