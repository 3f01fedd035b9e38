// Backward of the dense engine in halves. Weights come back from the logsumexp, so that nothing
// quadratic is kept. One kernel owns keys and walks over queries for dK and dV, another owns
// queries and walks over keys for dQ: two products more than adding dQ atomically, but always the
// same bits.
//
// In both, the scores' rows are what the block owns, so that weights and their gradients, which
// come out as accumulators, are left operands of the next product as they stand.
#include "tessera/attention/engines/dense_products.h"
#include "tessera/core/create.h"

namespace tessera::dense {
namespace {

template <class T>
struct BackwardArguments {
  Sizes sizes;
  Heads<const T> q, k, v, grad_out;
  Heads<T> grad_q, grad_k, grad_v;
  const float* exponent;  // see RowStatistics
  const float* delta;
  int padded;
  float scale_log2e;
  int tiles = 0, section = 1;  // see Task
};

template <class T>
struct StatisticsArguments {
  Sizes sizes;
  Heads<const T> out, grad_out;
  const float* lse;
  const float* grad_lse;  // may be null
  float* exponent;
  float* delta;
  int padded;
};

// kLanes neighbouring threads per query, 16 bytes each.
template <class T, int kLanes>
__global__ void statistics_kernel(const __grid_constant__ StatisticsArguments<T> a) {
  const Sizes& s = a.sizes;
  const int64_t rows = static_cast<int64_t>(s.batch) * s.heads * a.padded;
  const int64_t at = cuda::thread_index() / kLanes;  // rows · kLanes is a multiple of the warp
  if (at >= rows) return;
  const int row = static_cast<int>(at % a.padded);
  const int head = static_cast<int>(at / a.padded);
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int64_t from = static_cast<int64_t>(head) * s.queries + row;
  float dot = 0;
  if (row < s.queries && lane * 8 < s.value_width) {
    const int b = head / s.heads, h = head % s.heads;
    const auto o = cuda::load<8>(a.out.at(b, h) + row * a.out.row + lane * 8);
    const auto g = cuda::load<8>(a.grad_out.at(b, h) + row * a.grad_out.row + lane * 8);
#pragma unroll
    for (int e = 0; e < 8; ++e) dot += convert<float>(o[e]) * convert<float>(g[e]);
  }
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) {
    dot += __shfl_xor_sync(cuda::kAllLanes, dot, step);
  }
  if (lane > 0) return;
  float exponent = INFINITY;
  if (row < s.queries) {
    exponent = a.lse[from] == -INFINITY ? 0 : a.lse[from] * kLog2e;
    if (a.grad_lse != nullptr) dot -= a.grad_lse[from];
  }
  a.exponent[at] = exponent;
  a.delta[at] = dot;
}

// kWarps warps of 16 · kRowTiles rows each; kOthers rows of the other side at a time.
template <int kWidth_, int kWarps_, int kRowTiles_, int kOthers_, bool kKept_, int kBlocks_>
struct Shape {
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

// dV and dK of the block's keys, or only one of them where both do not fit into registers.
template <class T, class C, bool kValues, bool kKeys>
__global__ void __launch_bounds__(C::kThreads, C::kBlocks)
    keys_kernel(const __grid_constant__ BackwardArguments<T> a) {
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
  const int first = s.first_query(begin) / kOthers * kOthers;
  const int tiles = first < s.queries ? (s.queries - first + kOthers - 1) / kOthers : 0;
  int next_head = kh * s.group, next = first;  // queries to fetch
  auto fetch = [&](int stage) {
    const int t = cuda::opaque(thread);  // addresses are made anew: registers are short
    const TileCopy<T, kOthers, kWidth, C::kThreads> q(a.q.at(b, next_head), a.q.row, s.width, t);
    q(q_tiles + stage * C::kOtherBytes, next, s.queries);
    const TileCopy<T, kOthers, kWidth, C::kThreads> o(a.grad_out.at(b, next_head), a.grad_out.row,
                                                      s.value_width, t);
    o(o_tiles + stage * C::kOtherBytes, next, s.queries);
    constexpr int kPieces = kOthers / 4;
    const int which = t / kPieces;
    if (which < 2) {
      const int piece = t % kPieces;
      const int64_t at = (static_cast<int64_t>(b) * s.heads + next_head) * a.padded + next;
      cuda::copy_async(
          cuda::shared_address(statistics) + (2 * stage + which) * kStatistics + piece * 16,
          (which == 0 ? a.exponent : a.delta) + at + piece * 4);
    }
    next += kOthers;
    if (next >= s.queries) {
      next = first;
      ++next_head;
    }
  };
  const int count = s.group * tiles;
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

  int query = first;
  for (int i = 0; i < count; ++i) {
    cuda::wait_copies<0>();
    __syncthreads();
    const int stage = i & 1;
    if (i + 1 < count) fetch(stage ^ 1);
    cuda::commit_copies();
    const unsigned q_tile = q_tiles + stage * C::kOtherBytes + at;
    const float* exponents =
        reinterpret_cast<const float*>(statistics + 2 * stage * kStatistics) + lane % 4 * 2;
#pragma unroll 1
    for (int u = 0; u < kOthers / 16; ++u) {
      const int above = ahead - query - u * 16;  // queries short of seeing the first key
      if (above > 15) continue;                  // none of these queries sees any of these keys
      if (query + u * 16 >= s.queries) break;
      cuda::Accumulator p[kRowTiles][2], ds[kRowTiles][2];
      products<T>(p, keys, q_tile + u * C::kRowStep, 0);
      if constexpr (kKeys) products<T>(ds, values, q_tile + u * C::kRowStep, kBetween);
      if (above + kRowTiles * 16 - 1 > 0) hide_future(p, above);
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
    query += kOthers;
    if (query >= s.queries) query = first;  // of the next head
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
template <int kRowTiles>
__device__ inline void hide_unseen(cuda::Accumulator (&p)[kRowTiles][2], const Sizes& s, int query,
                                   int key) {
  const int lane = static_cast<int>(threadIdx.x % cuda::kWarp);
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int seen = s.visible(query + m * 16 + lane / 4 + e / 2 * 8) - key - lane % 4 * 2;
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        if (n * 8 + e % 2 >= seen) p[m][n][e] = -INFINITY;
      }
    }
  }
}

// dQ of the block's queries.
template <class T, class C>
__global__ void __launch_bounds__(C::kThreads, C::kBlocks)
    queries_kernel(const __grid_constant__ BackwardArguments<T> a) {
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
  const int last = s.visible(min(begin + C::kRows, s.queries) - 1);
  const int own_last =
      warp_begin < s.queries ? s.visible(min(warp_begin + kRowTiles * 16, s.queries) - 1) : 0;
  const int own_first = s.visible(warp_begin);
  const int tiles = (last + kOthers - 1) / kOthers;
  if (tiles > 0) {
    copy_k(k_tiles, 0, s.keys);
    copy_v(v_tiles, 0, s.keys);
  }
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
    if (j + 1 < tiles) {
      copy_k(k_tiles + (C::kOtherBytes - stage), (j + 1) * kOthers, s.keys);
      copy_v(v_tiles + (C::kOtherBytes - stage), (j + 1) * kOthers, s.keys);
    }
    cuda::commit_copies();
#pragma unroll 1
    for (int u = 0; u < kOthers / 16; ++u) {
      const int key = j * kOthers + u * 16;
      if (key >= own_last) break;
      const unsigned others = k_tiles + stage + u * C::kRowStep + at;
      cuda::Accumulator p[kRowTiles][2], ds[kRowTiles][2];
      products<T>(p, queries, others, 0);
      products<T>(ds, slopes, others, kBetween);
      if (key + 16 > own_first) hide_unseen(p, s, warp_begin, key);
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

template <class T, int kLanes>
void run_statistics(const StatisticsArguments<T>& a, Device device) {
  const int64_t threads = int64_t{a.padded} * a.sizes.batch * a.sizes.heads * kLanes;
  cuda::launch("dense_attention", device, statistics_kernel<T, kLanes>,
               grid_of((threads + 255) / 256), 256, 0, a);
}

template <class T, class C, bool kValues, bool kKeys>
void run_keys(BackwardArguments<T> a, Device device) {
  const Sizes& s = a.sizes;
  const int heads = s.batch * s.key_heads;
  a.tiles = (s.keys + C::kRows - 1) / C::kRows;
  a.section = section_of(int64_t{2} * (s.width + s.value_width) * s.queries * s.group, heads);
  cuda::launch("dense_attention", device, keys_kernel<T, C, kValues, kKeys>,
               grid_of(int64_t{a.tiles} * heads), C::kThreads,
               2 * C::kOwnBytes + 4 * C::kOtherBytes + 4 * C::kOthers * sizeof(float), a);
}

template <class T, class C>
void run_queries(BackwardArguments<T> a, Device device) {
  const Sizes& s = a.sizes;
  const int heads = s.batch * s.heads;
  a.tiles = (s.queries + C::kRows - 1) / C::kRows;
  a.section =
      section_of(int64_t{2} * (s.width + s.value_width) * s.keys / std::max(s.group, 1), heads);
  cuda::launch("dense_attention", device, queries_kernel<T, C>, grid_of(int64_t{a.tiles} * heads),
               C::kThreads, 2 * C::kOwnBytes + 4 * C::kOtherBytes, a);
}

template <class T>
void run(const BackwardArguments<T>& a, Device device) {
  const int width = std::max(a.sizes.width, a.sizes.value_width);
  if (width <= 64) {
    run_keys<T, Shape<64, 4, 2, 64, true, 2>, true, true>(a, device);
    run_queries<T, Shape<64, 4, 2, 64, true, 2>>(a, device);
  } else if (width <= 128) {
    run_keys<T, Shape<128, 8, 1, 64, true, 1>, true, true>(a, device);
    run_queries<T, Shape<128, 8, 1, 64, true, 1>>(a, device);
  } else {
    run_keys<T, Shape<256, 4, 1, 32, false, 1>, true, false>(a, device);
    run_keys<T, Shape<256, 4, 1, 32, false, 1>, false, true>(a, device);
    run_queries<T, Shape<256, 4, 1, 32, false, 1>>(a, device);
  }
}

}  // namespace

RowStatistics row_statistics(const Sizes& s, const Tensor& out, const Tensor& lse,
                             const Tensor& grad_out, const Tensor& grad_lse) {
  const int padded = (s.queries + kStatisticsRows - 1) / kStatisticsRows * kStatisticsRows;
  const Options f32{DType::f32, out.device()};
  const RowStatistics rows{empty({s.batch, s.heads, padded}, f32),
                           empty({s.batch, s.heads, padded}, f32), padded};
  auto launch = [&]<class T>() {
    const StatisticsArguments<T> a{s,
                                   Heads<const T>(out),
                                   Heads<const T>(grad_out),
                                   cuda::data<float>(lse),
                                   grad_lse.defined() ? cuda::data<float>(grad_lse) : nullptr,
                                   cuda::data<float>(rows.exponent),
                                   cuda::data<float>(rows.delta),
                                   padded};
    if (s.value_width <= 64) {
      run_statistics<T, 8>(a, out.device());
    } else if (s.value_width <= 128) {
      run_statistics<T, 16>(a, out.device());
    } else {
      run_statistics<T, 32>(a, out.device());
    }
  };
  if (out.dtype() == DType::bf16) {
    launch.template operator()<bfloat16>();
  } else {
    launch.template operator()<float16>();
  }
  return rows;
}

void backward_halves(const Sizes& s, const Tensor& q, const Tensor& k, const Tensor& v,
                     const Tensor& out, const Tensor& lse, const Tensor& grad_out,
                     const Tensor& grad_lse, const DenseGradients& grads) {
  const RowStatistics rows = row_statistics(s, out, lse, grad_out, grad_lse);
  auto launch = [&]<class T>() {
    run(BackwardArguments<T>{s, Heads<const T>(q), Heads<const T>(k), Heads<const T>(v),
                             Heads<const T>(grad_out), Heads<T>(grads.query), Heads<T>(grads.key),
                             Heads<T>(grads.value), cuda::data<float>(rows.exponent),
                             cuda::data<float>(rows.delta), rows.padded,
                             static_cast<float>(s.scale) * kLog2e},
        q.device());
  };
  if (q.dtype() == DType::bf16) {
    launch.template operator()<bfloat16>();
  } else {
    launch.template operator()<float16>();
  }
}

}  // namespace tessera::dense
