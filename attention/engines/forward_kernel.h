// Forward of softmax attention in halves (Dao 2023, "FlashAttention-2"): a block owns a tile of
// queries, every warp some rows of it; the tiles of keys and values that its source names stream
// through two buffers in shared memory while scores, weights and results stay in registers.
#pragma once

#include "tessera/attention/engines/dense_tiles.h"
#include "tessera/attention/engines/sparse_tiles.h"

namespace tessera::dense {

// kWarps warps of 16 · kRowTiles queries each; kKeys keys at a time; kBlocks blocks at a time on a
// processor.
template <int kWidth_, int kWarps_, int kRowTiles_, int kKeys_, int kBlocks_, bool kKept_>
struct ForwardShape {
  static constexpr int kWidth = kWidth_, kWarps = kWarps_, kRowTiles = kRowTiles_;
  static constexpr int kKeys = kKeys_, kBlocks = kBlocks_;
  static constexpr int kRows = kWarps * kRowTiles * 16;
  static constexpr bool kQueriesInRegisters = kKept_;
};

template <class T, class Tiles>
struct ForwardArguments {
  Sizes sizes;
  Tiles source;
  Heads<const T> q, k, v;
  Heads<T> out;
  float* lse;
  float scale_log2e;   // scores are exponents of 2
  int tiles, section;  // see Task
};

template <class C>
using Scores = cuda::Accumulator[C::kKeys / 8];

// Makes weights of 16 rows of scores: the maximum seen so far rises, earlier sums and results
// shrink accordingly. `limit`: keys visible to the lane's two rows, counted from this tile.
template <class C>
__device__ inline void soften(Scores<C>& s, cuda::Accumulator (&o)[C::kWidth / 8], float (&top)[2],
                              float (&total)[2], float scale) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float best = top[r];
#pragma unroll
    for (int n = 0; n < C::kKeys / 8; ++n) best = fmaxf(best, fmaxf(s[n][2 * r], s[n][2 * r + 1]));
    best = fmaxf(best, __shfl_xor_sync(cuda::kAllLanes, best, 1));
    best = fmaxf(best, __shfl_xor_sync(cuda::kAllLanes, best, 2));
    const float shift = best == -INFINITY ? 0 : best * scale;
    const float shrink = cuda::exp2_fast(top[r] * scale - shift);
    top[r] = best;
    float sum = 0;
#pragma unroll
    for (int n = 0; n < C::kKeys / 8; ++n) {
#pragma unroll
      for (int e = 2 * r; e < 2 * r + 2; ++e) {
        s[n][e] = cuda::exp2_fast(s[n][e] * scale - shift);
        sum += s[n][e];
      }
    }
    total[r] = total[r] * shrink + sum;
#pragma unroll
    for (int n = 0; n < C::kWidth / 8; ++n) {
      o[n][2 * r] *= shrink;
      o[n][2 * r + 1] *= shrink;
    }
  }
}

// Hides what the lane's two rows, `upper` and the eighth below it, do not see of the keys from
// `key` on.
template <class C, bool kWindow>
__device__ inline void hide(Scores<C>& s, const IndexRange& upper, const IndexRange& lower,
                            int key) {
  const int first = key + static_cast<int>(threadIdx.x % 4) * 2;
#pragma unroll
  for (int n = 0; n < C::kKeys / 8; ++n) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      if (n * 8 + e >= upper.end - first) s[n][e] = -INFINITY;
      if (n * 8 + e >= lower.end - first) s[n][2 + e] = -INFINITY;
      if constexpr (kWindow) {
        if (n * 8 + e < upper.begin - first) s[n][e] = -INFINITY;
        if (n * 8 + e < lower.begin - first) s[n][2 + e] = -INFINITY;
      }
    }
  }
}

template <class T, class C, class Tiles>
__global__ void __launch_bounds__(C::kWarps * 32, C::kBlocks)
    forward_kernel(const __grid_constant__ ForwardArguments<T, Tiles> a) {
  constexpr int kWidth = C::kWidth, kKeys = C::kKeys, kRowTiles = C::kRowTiles;
  constexpr int kThreads = C::kWarps * 32, kRows = C::kRows;
  constexpr int kSteps = kWidth / 16;
  constexpr unsigned kRowStep = 16 * kWidth * 2;
  constexpr unsigned kKeyBytes = kTileBytes<kKeys, kWidth>;
  extern __shared__ __align__(1024) char memory[];
  const Sizes& s = a.sizes;
  const int heads = s.batch * s.heads;
  const auto [tile, head] = task_of(static_cast<int>(blockIdx.x), a.tiles, heads, a.section);
  const int begin = (a.tiles - 1 - tile) * kRows;  // the last queries see most keys
  const int b = head / s.heads, h = head % s.heads;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int warp_begin = begin + warp * kRowTiles * 16;

  const unsigned q_tile = cuda::shared_address(memory);
  const unsigned k_tiles = q_tile + kTileBytes<kRows, kWidth>;
  const unsigned v_tiles = k_tiles + 2 * kKeyBytes;  // after both stages of keys
  const unsigned at = lane_offset<kWidth>();
  const unsigned q_rows = q_tile + warp * kRowTiles * kRowStep + at;

  const typename Tiles::template Keys<kKeys> met(a.source, s, b, h, begin,
                                                 min(begin + kRows, s.queries));
  const int tiles = met.count;

  TileCopy<T, kRows, kWidth, kThreads>(a.q.at(b, h), a.q.row, s.width, thread)(q_tile, begin,
                                                                               s.queries);
  cuda::commit_copies();
  auto fetch = [&](int key, unsigned stage) {
    // Addresses are made anew for every tile: registers are short.
    const int t = cuda::opaque(thread);
    using Copy = TileCopy<T, kKeys, kWidth, kThreads>;
    const int kh = h / s.group;
    Copy(a.k.at(b, kh), a.k.row, s.width, t)(k_tiles + stage, key, s.keys);
    Copy(a.v.at(b, kh), a.v.row, s.value_width, t)(v_tiles + stage, key, s.keys);
  };
  if (tiles > 0) fetch(met(0), 0);
  cuda::commit_copies();

  unsigned q[C::kQueriesInRegisters ? kRowTiles : 1][C::kQueriesInRegisters ? kSteps : 1][4];
  if constexpr (C::kQueriesInRegisters) {
    cuda::wait_copies<1>();
    __syncthreads();
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int kk = 0; kk < kSteps; ++kk) {
        load_left(q[m][kk], (q_rows ^ (kk * 32)) + m * kRowStep);
      }
    }
  }

  cuda::Accumulator o[kRowTiles][kWidth / 8];
  float top[kRowTiles][2], total[kRowTiles][2];
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
    clear(o[m]);
    top[m][0] = top[m][1] = -INFINITY;
    total[m][0] = total[m][1] = 0;
  }

  for (int j = 0; j < tiles; ++j) {
    cuda::wait_copies<0>();
    __syncthreads();
    const unsigned stage = (j & 1) * kKeyBytes;
    if (j + 1 < tiles) fetch(met(j + 1), kKeyBytes - stage);
    cuda::commit_copies();
    const int key = met(j);
    const int own = cuda::opaque(warp_begin);  // again to save registers
    const IndexRange last = a.source.keys_of(s, min(own + kRowTiles * 16, s.queries) - 1);
    if (own >= s.queries || key >= last.end) continue;
    if (Tiles::kWindow && key + kKeys <= a.source.keys_of(s, own).begin) continue;

    Scores<C> p[kRowTiles];
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) clear(p[m]);
    const unsigned k_tile = k_tiles + stage + at;
    const unsigned q_now = cuda::opaque(q_rows);
#pragma unroll
    for (int kk = 0; kk < kSteps; ++kk) {
      unsigned left[kRowTiles][4];
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        if constexpr (C::kQueriesInRegisters) {
#pragma unroll
          for (int i = 0; i < 4; ++i) left[m][i] = q[m][kk][i];
        } else {
          load_left(left[m], (q_now ^ (kk * 32)) + m * kRowStep);
        }
      }
#pragma unroll
      for (int n = 0; n < kKeys / 16; ++n) {
        unsigned right[4];
        cuda::load_matrices(right, (k_tile ^ (kk * 32)) + n * kRowStep);
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
          cuda::mma<T>(p[m][2 * n], left[m], right[0], right[1]);
          cuda::mma<T>(p[m][2 * n + 1], left[m], right[2], right[3]);
        }
      }
    }

    const bool masked =
        key + kKeys > a.source.keys_of(s, own).end || (Tiles::kWindow && key < last.begin);
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
      if (masked) {
        const int row = warp_begin + m * 16 + lane / 4;
        hide<C, Tiles::kWindow>(p[m], a.source.keys_of(s, row), a.source.keys_of(s, row + 8), key);
      }
      soften<C>(p[m], o[m], top[m], total[m], a.scale_log2e);
    }

#pragma unroll
    for (int kk = 0; kk < kKeys / 16; ++kk) {
      unsigned left[kRowTiles][4];
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) pack_left<T>(left[m], p[m][2 * kk], p[m][2 * kk + 1]);
#pragma unroll
      for (int n = 0; n < kWidth / 16; ++n) {
        unsigned right[4];
        cuda::load_transposed(right, (k_tile ^ (n * 32)) + (2 * kKeyBytes + kk * kRowStep));
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
          cuda::mma<T>(o[m][2 * n], left[m], right[0], right[2]);
          cuda::mma<T>(o[m][2 * n + 1], left[m], right[1], right[3]);
        }
      }
    }
  }

  if (tiles == 0) {  // the queries may still be on their way to where results are staged
    cuda::wait_copies<0>();
    __syncthreads();
  }
  // What block and warp work on is computed anew, to leave registers to the loop.
  const int block = cuda::opaque(static_cast<int>(blockIdx.x));
  const Task done = task_of(block, a.tiles, heads, a.section);
  const int own = cuda::opaque(thread) / 32 * kRowTiles;
  float* lse = a.lse + static_cast<int64_t>(done.head) * s.queries;
  T* out = a.out.at(done.head / s.heads, done.head % s.heads);
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
    const int row = (a.tiles - 1 - done.tile) * kRows + (own + m) * 16;
    float inverse[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float& sum = total[m][r];
      sum += __shfl_xor_sync(cuda::kAllLanes, sum, 1);
      sum += __shfl_xor_sync(cuda::kAllLanes, sum, 2);
      inverse[r] = sum == 0 ? 0 : 1 / sum;
      const int i = row + lane / 4 + 8 * r;
      if (lane % 4 == 0 && i < s.queries) {
        lse[i] = sum == 0 ? -INFINITY : top[m][r] * static_cast<float>(s.scale) + logf(sum);
      }
    }
    store_rows<T, kWidth>(o[m], inverse[0], inverse[1], memory + (own + m) * kRowStep, out,
                          a.out.row, row, s.queries, s.value_width);
  }
}

template <class C, class T, class Tiles>
void launch_forward(const char* op, ForwardArguments<T, Tiles> a, Device device) {
  constexpr unsigned kBytes = kTileBytes<C::kRows, C::kWidth> + 4 * kTileBytes<C::kKeys, C::kWidth>;
  const int heads = a.sizes.batch * a.sizes.heads;
  a.tiles = (a.sizes.queries + C::kRows - 1) / C::kRows;
  cuda::launch(op, device, forward_kernel<T, C, Tiles>, grid_of(int64_t{a.tiles} * heads),
               C::kWarps * 32, kBytes, a);
}

template <class T, class Tiles>
ForwardArguments<T, Tiles> forward_arguments(const Sizes& s, const Tiles& source, const Tensor& q,
                                             const Tensor& k, const Tensor& v, const Tensor& out,
                                             const Tensor& lse) {
  const int64_t bytes = int64_t{2} * (s.width + s.value_width) * s.keys / std::max(s.group, 1);
  return {s,
          source,
          Heads<const T>(q),
          Heads<const T>(k),
          Heads<const T>(v),
          Heads<T>(out),
          cuda::data<float>(lse),
          static_cast<float>(s.scale) * kLog2e,
          0,
          section_of(bytes, std::max(1, s.batch * s.heads))};
}

}  // namespace tessera::dense
