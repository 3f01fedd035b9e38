// Backward of softmax attention in halves. Weights come back from the logsumexp, so that nothing
// quadratic is kept. One kernel owns keys and walks over queries for dK and dV, another owns
// queries and walks over keys for dQ: two products more than adding dQ atomically, but always the
// same bits. Which tiles they meet on their walk, their source says (sparse_tiles.h).
//
// In both, the scores' rows are what the block owns, so that weights and their gradients, which
// come out as accumulators, are left operands of the next product as they stand.
#pragma once

#include "tessera/attention/engines/dense_products.h"
#include "tessera/attention/engines/sparse_tiles.h"

namespace tessera::dense {

template <class T, class Tiles>
struct BackwardArguments {
  Sizes sizes;
  Tiles source;
  Heads<const T> q, k, v, grad_out;
  Heads<T> grad_q, grad_k, grad_v;
  const float* exponent;  // see RowStatistics
  const float* delta;
  int padded;
  float scale_log2e;
  int tiles = 0, section = 1;  // see Task
};

// kWarps warps of 16 · kRowTiles rows each; kOthers rows of the other side at a time.
template <int kWidth_, int kWarps_, int kRowTiles_, int kOthers_, bool kKept_, int kBlocks_>
struct BackwardShape {
  static constexpr int kWidth = kWidth_, kWarps = kWarps_, kRowTiles = kRowTiles_;
  static constexpr int kOthers = kOthers_, kBlocks = kBlocks_;
  static constexpr bool kKept = kKept_;
  static constexpr int kThreads = kWarps * 32, kRows = kWarps * kRowTiles * 16;
  static constexpr unsigned kRowStep = 16 * kWidth * 2;
  static constexpr unsigned kOwnBytes = kTileBytes<kRows, kWidth>;
  static constexpr unsigned kOtherBytes = kTileBytes<kOthers, kWidth>;
};

// Scores −inf for keys (rows) that a query (column) does not see; the first query is `above` short
// of the first that sees the first key.
template <int kRowTiles>
__device__ inline void hide_future(cuda::Accumulator (&p)[kRowTiles][2], int above) {
  const int lane = static_cast<int>(threadIdx.x % cuda::kWarp);
  above += lane / 4 - lane % 4 * 2;
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        if (above > n * 8 + e % 2 - m * 16 - e / 2 * 8) p[m][n][e] = -INFINITY;
      }
    }
  }
}

// The same of a window: query − key in [first, last], `between` from the first key to the first
// query.
template <int kRowTiles>
__device__ inline void hide_outside(cuda::Accumulator (&p)[kRowTiles][2], int between, int first,
                                    int last) {
  const int lane = static_cast<int>(threadIdx.x % cuda::kWarp);
  between += lane % 4 * 2 - lane / 4;
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int offset = n * 8 + e % 2 - m * 16 - e / 2 * 8;
        if (between < first - offset || between > last - offset) p[m][n][e] = -INFINITY;
      }
    }
  }
}

// dV and dK of the block's keys, or only one of them where both do not fit into registers.
template <class T, class C, class Tiles, bool kValues, bool kKeys>
__global__ void __launch_bounds__(C::kThreads, C::kBlocks)
    keys_kernel(const __grid_constant__ BackwardArguments<T, Tiles> a) {
  constexpr int kWidth = C::kWidth, kRowTiles = C::kRowTiles, kOthers = C::kOthers;
  constexpr unsigned kStatistics = kOthers * sizeof(float);
  extern __shared__ __align__(1024) char memory[];
  const Sizes& s = a.sizes;
  const int heads = s.batch * s.key_heads;
  const auto [tile, head] = task_of(static_cast<int>(blockIdx.x), a.tiles, heads, a.section);
  const int begin = tile * C::kRows;  // the first keys are seen by most queries
  const int b = head / s.key_heads, kh = head % s.key_heads;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int warp_begin = begin + warp * kRowTiles * 16;
  const unsigned at = lane_offset<kWidth>();

  // Shared memory: keys, values; two stages of queries, of dO, of both statistics.
  const unsigned k_tile = cuda::shared_address(memory);
  const unsigned v_tile = k_tile + C::kOwnBytes;
  const unsigned q_tiles = v_tile + C::kOwnBytes;
  constexpr unsigned kBetween = 2 * C::kOtherBytes;
  const unsigned o_tiles = q_tiles + kBetween;
  char* const statistics = memory + 2 * C::kOwnBytes + 4 * C::kOtherBytes;

  TileCopy<T, C::kRows, kWidth, C::kThreads>(a.k.at(b, kh), a.k.row, s.width, thread)(k_tile, begin,
                                                                                      s.keys);
  TileCopy<T, C::kRows, kWidth, C::kThreads>(a.v.at(b, kh), a.v.row, s.value_width, thread)(
      v_tile, begin, s.keys);
  typename Tiles::template Queries<kOthers> next(a.source, s, b, kh, begin,
                                                 min(begin + C::kRows, s.keys));
  auto fetch = [&](int stage) {
    const int t = cuda::opaque(thread);  // addresses are made anew: registers are short
    const TileCopy<T, kOthers, kWidth, C::kThreads> q(a.q.at(b, next.head), a.q.row, s.width, t);
    q(q_tiles + stage * C::kOtherBytes, next.query, s.queries);
    const TileCopy<T, kOthers, kWidth, C::kThreads> o(a.grad_out.at(b, next.head), a.grad_out.row,
                                                      s.value_width, t);
    o(o_tiles + stage * C::kOtherBytes, next.query, s.queries);
    constexpr int kPieces = kOthers / 4;
    const int which = t / kPieces;
    if (which < 2) {
      const int piece = t % kPieces;
      const int64_t at = (static_cast<int64_t>(b) * s.heads + next.head) * a.padded + next.query;
      const bool there =
          !Tiles::kWindow || next.query < s.queries;  // a block may begin behind them
      cuda::copy_async(
          cuda::shared_address(statistics) + (2 * stage + which) * kStatistics + piece * 16,
          (which == 0 ? a.exponent : a.delta) + (there ? at + piece * 4 : 0), there);
    }
    next.advance(a.source, s);
  };
  const int count = next.count;
  const int first = next.query;
  if (count > 0) fetch(0);
  cuda::commit_copies();
  cuda::wait_copies<0>();
  __syncthreads();
  const unsigned own = warp * kRowTiles * C::kRowStep + at;
  const OwnRows<kRowTiles, kWidth, C::kKept> keys(k_tile + own);
  const OwnRows<kRowTiles, kWidth, C::kKept> values(v_tile + own);

  cuda::Accumulator grad_k[kKeys ? kRowTiles : 1][kWidth / 8];
  cuda::Accumulator grad_v[kValues ? kRowTiles : 1][kWidth / 8];
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
    if constexpr (kKeys) clear(grad_k[m]);
    if constexpr (kValues) clear(grad_v[m]);
  }
  // Key j is seen by query i when j ≤ i + future.
  const int future = s.causal ? s.keys - s.queries : s.keys;
  const int ahead = warp_begin - future;  // the first query that sees the warp's first key
  const auto window = a.source.offsets(s);

  int query = first;
  for (int i = 0; i < count; ++i) {
    cuda::wait_copies<0>();
    __syncthreads();
    const int stage = i & 1;
    const int following = next.query;
    if (i + 1 < count) fetch(stage ^ 1);
    cuda::commit_copies();
    const unsigned q_tile = q_tiles + stage * C::kOtherBytes + at;
    const float* exponents =
        reinterpret_cast<const float*>(statistics + 2 * stage * kStatistics) + lane % 4 * 2;
#pragma unroll 1
    for (int u = 0; u < kOthers / 16; ++u) {
      const int here = query + u * 16;
      if (here >= s.queries) break;
      const int above = ahead - here;  // queries short of seeing the first key
      if constexpr (Tiles::kWindow) {
        if (here + 15 < window.first + warp_begin ||
            here > window.last + warp_begin + kRowTiles * 16 - 1) {
          continue;
        }
      } else if (above > 15) {
        continue;  // none of these queries sees any of these keys
      }
      cuda::Accumulator p[kRowTiles][2], ds[kRowTiles][2];
      products<T>(p, keys, q_tile + u * C::kRowStep, 0);
      if constexpr (kKeys) products<T>(ds, values, q_tile + u * C::kRowStep, kBetween);
      if constexpr (Tiles::kWindow) {
        if (here < window.first + warp_begin + kRowTiles * 16 - 1 ||
            here + 15 > window.last + warp_begin) {
          hide_outside(p, here - warp_begin, window.first, window.last);
        }
      } else if (above + kRowTiles * 16 - 1 > 0) {
        hide_future(p, above);
      }
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const auto exponent = cuda::load<2>(exponents + u * 16 + n * 8);
        const auto delta = cuda::load<2>(exponents + kOthers + u * 16 + n * 8);
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            p[m][n][e] = cuda::exp2_fast(p[m][n][e] * a.scale_log2e - exponent[e % 2]);
            if constexpr (kKeys) ds[m][n][e] = p[m][n][e] * (ds[m][n][e] - delta[e % 2]);
          }
        }
      }
      if constexpr (kValues) add_weighted<T, kWidth>(grad_v, p, q_tile + u * C::kRowStep, kBetween);
      if constexpr (kKeys) add_weighted<T, kWidth>(grad_k, ds, q_tile + u * C::kRowStep, 0);
    }
    query = following;
  }

  __syncthreads();  // tiles of keys and values serve for staging now
  // What block and warp work on is computed anew, to leave registers to the loop.
  const int block = cuda::opaque(static_cast<int>(blockIdx.x));
  const Task done = task_of(block, a.tiles, heads, a.section);
  const int own_rows = cuda::opaque(thread) / 32 * kRowTiles;
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
    char* staging = memory + (own_rows + m) * C::kRowStep;
    const int row = done.tile * C::kRows + (own_rows + m) * 16;
    if constexpr (kKeys) {
      const auto factor = static_cast<float>(s.scale);
      store_rows<T, kWidth>(grad_k[m], factor, factor, staging,
                            a.grad_k.at(done.head / s.key_heads, done.head % s.key_heads),
                            a.grad_k.row, row, s.keys, s.width);
    }
    if constexpr (kValues) {
      store_rows<T, kWidth>(grad_v[m], 1, 1, staging,
                            a.grad_v.at(done.head / s.key_heads, done.head % s.key_heads),
                            a.grad_v.row, row, s.keys, s.value_width);
    }
  }
}

// Scores −inf for keys (columns, from `key` on) that a query (row, from `query` on) does not see.
template <class Tiles, int kRowTiles>
__device__ inline void hide_unseen(cuda::Accumulator (&p)[kRowTiles][2], const Sizes& s,
                                   const Tiles& source, int query, int key) {
  const int lane = static_cast<int>(threadIdx.x % cuda::kWarp);
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const IndexRange seen = source.keys_of(s, query + m * 16 + lane / 4 + e / 2 * 8);
      const int first = key + lane % 4 * 2;
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        if (n * 8 + e % 2 >= seen.end - first) p[m][n][e] = -INFINITY;
        if (Tiles::kWindow && n * 8 + e % 2 < seen.begin - first) p[m][n][e] = -INFINITY;
      }
    }
  }
}

// dQ of the block's queries.
template <class T, class C, class Tiles>
__global__ void __launch_bounds__(C::kThreads, C::kBlocks)
    queries_kernel(const __grid_constant__ BackwardArguments<T, Tiles> a) {
  constexpr int kWidth = C::kWidth, kRowTiles = C::kRowTiles, kOthers = C::kOthers;
  extern __shared__ __align__(1024) char memory[];
  const Sizes& s = a.sizes;
  const int heads = s.batch * s.heads;
  const auto [tile, head] = task_of(static_cast<int>(blockIdx.x), a.tiles, heads, a.section);
  const int begin = (a.tiles - 1 - tile) * C::kRows;  // the last queries see most keys
  const int b = head / s.heads, h = head % s.heads, kh = h / s.group;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int warp_begin = begin + warp * kRowTiles * 16;
  const unsigned at = lane_offset<kWidth>();

  const unsigned q_tile = cuda::shared_address(memory);
  const unsigned o_tile = q_tile + C::kOwnBytes;
  const unsigned k_tiles = o_tile + C::kOwnBytes;
  constexpr unsigned kBetween = 2 * C::kOtherBytes;
  const unsigned v_tiles = k_tiles + kBetween;
  TileCopy<T, C::kRows, kWidth, C::kThreads>(a.q.at(b, h), a.q.row, s.width, thread)(q_tile, begin,
                                                                                     s.queries);
  TileCopy<T, C::kRows, kWidth, C::kThreads>(a.grad_out.at(b, h), a.grad_out.row, s.value_width,
                                             thread)(o_tile, begin, s.queries);
  const TileCopy<T, kOthers, kWidth, C::kThreads> copy_k(a.k.at(b, kh), a.k.row, s.width, thread);
  const TileCopy<T, kOthers, kWidth, C::kThreads> copy_v(a.v.at(b, kh), a.v.row, s.value_width,
                                                         thread);
  const typename Tiles::template Keys<kOthers> met(a.source, s, b, h, begin,
                                                   min(begin + C::kRows, s.queries));
  // What the warp's first and last query see.
  const IndexRange own_first = a.source.keys_of(s, warp_begin);
  IndexRange own_last{0, 0};
  if (warp_begin < s.queries) {
    own_last = a.source.keys_of(s, min(warp_begin + kRowTiles * 16, s.queries) - 1);
  }
  const int tiles = met.count;
  auto fetch = [&](int key, unsigned stage) {
    copy_k(k_tiles + stage, key, s.keys);
    copy_v(v_tiles + stage, key, s.keys);
  };
  if (tiles > 0) fetch(met(0), 0);
  cuda::commit_copies();
  cuda::wait_copies<0>();
  __syncthreads();
  const unsigned own = warp * kRowTiles * C::kRowStep + at;
  const OwnRows<kRowTiles, kWidth, C::kKept> queries(q_tile + own);
  const OwnRows<kRowTiles, kWidth, C::kKept> slopes(o_tile + own);

  cuda::Accumulator sum[kRowTiles][kWidth / 8];
  float exponent[kRowTiles][2], delta[kRowTiles][2];
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
    clear(sum[m]);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = warp_begin + m * 16 + lane / 4 + r * 8;
      const int64_t i = static_cast<int64_t>(head) * a.padded + row;
      exponent[m][r] = row < a.padded ? a.exponent[i] : INFINITY;
      delta[m][r] = row < a.padded ? a.delta[i] : 0;
    }
  }

  for (int j = 0; j < tiles; ++j) {
    cuda::wait_copies<0>();
    __syncthreads();
    const unsigned stage = (j & 1) * C::kOtherBytes;
    if (j + 1 < tiles) fetch(met(j + 1), C::kOtherBytes - stage);
    cuda::commit_copies();
    const int first = met(j);
#pragma unroll 1
    for (int u = 0; u < kOthers / 16; ++u) {
      const int key = first + u * 16;
      if (key >= own_last.end) break;
      if (Tiles::kWindow && key + 16 <= own_first.begin) continue;
      const unsigned others = k_tiles + stage + u * C::kRowStep + at;
      cuda::Accumulator p[kRowTiles][2], ds[kRowTiles][2];
      products<T>(p, queries, others, 0);
      products<T>(ds, slopes, others, kBetween);
      if (key + 16 > own_first.end || (Tiles::kWindow && key < own_last.begin)) {
        hide_unseen(p, s, a.source, warp_begin, key);
      }
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
        for (int n = 0; n < 2; ++n) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const float w = cuda::exp2_fast(p[m][n][e] * a.scale_log2e - exponent[m][e / 2]);
            ds[m][n][e] = w * (ds[m][n][e] - delta[m][e / 2]);
          }
        }
      }
      add_weighted<T, kWidth>(sum, ds, others, 0);
    }
  }

  __syncthreads();  // the tile of queries serves for staging now
  const auto factor = static_cast<float>(s.scale);
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
    store_rows<T, kWidth>(sum[m], factor, factor, memory + (warp * kRowTiles + m) * C::kRowStep,
                          a.grad_q.at(b, h), a.grad_q.row, warp_begin + m * 16, s.queries, s.width);
  }
}

template <class C, bool kValues, bool kKeys, class T, class Tiles>
void run_keys(const char* op, BackwardArguments<T, Tiles> a, Device device) {
  const Sizes& s = a.sizes;
  const int heads = s.batch * s.key_heads;
  a.tiles = (s.keys + C::kRows - 1) / C::kRows;
  a.section = section_of(int64_t{2} * (s.width + s.value_width) * s.queries * s.group, heads);
  cuda::launch(op, device, keys_kernel<T, C, Tiles, kValues, kKeys>,
               grid_of(int64_t{a.tiles} * heads), C::kThreads,
               2 * C::kOwnBytes + 4 * C::kOtherBytes + 4 * C::kOthers * sizeof(float), a);
}

template <class C, class T, class Tiles>
void run_queries(const char* op, BackwardArguments<T, Tiles> a, Device device) {
  const Sizes& s = a.sizes;
  const int heads = s.batch * s.heads;
  a.tiles = (s.queries + C::kRows - 1) / C::kRows;
  a.section =
      section_of(int64_t{2} * (s.width + s.value_width) * s.keys / std::max(s.group, 1), heads);
  cuda::launch(op, device, queries_kernel<T, C, Tiles>, grid_of(int64_t{a.tiles} * heads),
               C::kThreads, 2 * C::kOwnBytes + 4 * C::kOtherBytes, a);
}

template <class T, class Tiles>
BackwardArguments<T, Tiles> backward_arguments(const Sizes& s, const Tiles& source,
                                               const RowStatistics& rows, const Tensor& q,
                                               const Tensor& k, const Tensor& v,
                                               const Tensor& grad_out,
                                               const DenseGradients& grads) {
  return {s,
          source,
          Heads<const T>(q),
          Heads<const T>(k),
          Heads<const T>(v),
          Heads<const T>(grad_out),
          Heads<T>(grads.query),
          Heads<T>(grads.key),
          Heads<T>(grads.value),
          cuda::data<float>(rows.exponent),
          cuda::data<float>(rows.delta),
          rows.padded,
          static_cast<float>(s.scale) * kLog2e};
}

}  // namespace tessera::dense
