// Backward of softmax attention in halves on Hopper (Shah et al. 2024, "FlashAttention-3"). As in
// backward_kernels.h one kernel owns keys and walks over queries for dK and dV, another owns
// queries and walks over keys for dQ. One thread copies tiles ahead, two warpgroups of 64 own rows
// each compute: scores and dO Vᵀ come out of tensor cores as accumulators whose rows are the
// block's own, so that weights and their gradients are left operands of the next products as they
// stand. Which tiles they meet, their source says (sparse_tiles.h).
#pragma once

#include "tessera/attention/engines/dense_tiles.h"
#include "tessera/attention/engines/hopper.h"
#include "tessera/attention/engines/sparse_tiles.h"
#include "tessera/attention/engines/tensor_map.h"

namespace tessera::dense::hopper_backward {

constexpr int kOwn = 128;  // rows that a block owns
constexpr int kThreads = 3 * cuda::kWarpgroup;
constexpr int kEmptying = 2 * cuda::kWarpgroup / 32;  // warps that read a stage

// kOthers rows of the other side at a time, kStages of them under way.
template <int kWidthOf, int kOthersOf, int kStagesOf>
struct Shape {
  static constexpr int kWidth = kWidthOf, kOthers = kOthersOf, kStages = kStagesOf;
  static constexpr unsigned kOwnBytes = kTileBytes<kOwn, kWidth>;
  static constexpr unsigned kOtherBytes = kTileBytes<kOthers, kWidth>;
  static constexpr unsigned kStatisticsBytes = kOthers * sizeof(float);
  static constexpr unsigned kBarriers = 1 + 4 * kStages;
  static constexpr unsigned kTilesEnd = 2 * kOwnBytes + 2 * kStages * kOtherBytes;
  static constexpr unsigned kStatisticsEnd = kTilesEnd + 2 * kStages * kStatisticsBytes;
  static constexpr unsigned kBarriersEnd = kStatisticsEnd + 8 * kBarriers;
  static constexpr unsigned kShared = kBarriersEnd + 4 * kStages;
};

template <class Source>
struct Arguments {
  Sizes sizes;
  Source source;
  CUtensorMap q, k, v, grad_out;  // boxes of the rows that the kernel takes at a time
  CUtensorMap first, second;      // what the kernel writes, by boxes of 64 rows
  const float* exponent;          // see RowStatistics
  const float* delta;
  int padded;
  float scale, scale_log2e;
  int tiles, section;  // see Task
};

template <int kStages>
struct Ring {
  int stage = 0;
  unsigned parity = 0;
  __device__ void operator++() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// Of a shape: where a block's tiles, statistics and barriers lie.
template <class C>
struct Memory {
  unsigned own, others, statistics, barriers;
  __device__ explicit Memory(unsigned base)
      : own(base),
        others(base + 2 * C::kOwnBytes),
        statistics(base + C::kTilesEnd),
        barriers(base + C::kStatisticsEnd) {}
  // Of two streams of tiles, which is 0 or 1.
  __device__ unsigned tile(int which, int stage) const {
    return others + (which * C::kStages + stage) * C::kOtherBytes;
  }
  __device__ unsigned numbers(int which, int stage) const {
    return statistics + (which * C::kStages + stage) * C::kStatisticsBytes;
  }
  // Where the producer leaves the first row of a stage's tile, if that takes more than counting.
  __device__ unsigned place(int stage) const {
    return barriers + (C::kBarriersEnd - C::kStatisticsEnd) + stage * 4;
  }
  __device__ unsigned own_full() const { return barriers; }
  __device__ unsigned full(int which, int stage) const {
    return barriers + 8 * (1 + which * C::kStages + stage);
  }
  __device__ unsigned empty(int which, int stage) const {
    return barriers + 8 * (1 + (2 + which) * C::kStages + stage);
  }
  __device__ void init_barriers() const {
    cuda::barrier_init(own_full(), 1);
    for (int which = 0; which < 2; ++which) {
      for (int stage = 0; stage < C::kStages; ++stage) {
        cuda::barrier_init(full(which, stage), 1);
        cuda::barrier_init(empty(which, stage), kEmptying);
      }
    }
    cuda::fence_barrier_init();
  }
};

__device__ inline void store_place(unsigned address, int row) {
  asm volatile("st.shared.s32 [%0], %1;" ::"r"(address), "r"(row) : "memory");
}
__device__ inline int load_place(unsigned address) {
  int row;
  asm volatile("ld.shared.s32 %0, [%1];" : "=r"(row) : "r"(address) : "memory");
  return row;
}

template <int kRows, int kWidth>
__device__ inline void load_tile(unsigned to, const CUtensorMap& map, unsigned barrier, int row,
                                 int head, int batch, uint64_t cache) {
#pragma unroll
  for (int box = 0; box < kWidth / 64; ++box) {
    cuda::load_box(to + box * kRows * 128, map, barrier, box * 64, row, head, batch, cache);
  }
}

// In units of a descriptor: columns 16 k of a tile of kRows rows.
template <int kRows>
constexpr unsigned columns(int k) {
  return (k / 4 * kRows * 128 + k % 4 * 32) >> 4;
}

// c = (64 own rows) · (kCount · 2 rows of `others`)ᵀ, over the whole width.
template <class T, int kWidth, int kCount>
__device__ inline void products(float (&c)[kCount], uint64_t own, uint64_t others) {
#pragma unroll
  for (int k = 0; k < kWidth / 16; ++k) {
    cuda::product<T, 0, 0>(c, own + columns<kOwn>(k), others + columns<kCount * 2>(k), k > 0);
  }
  cuda::products_commit();
}

// sum += weights · others, over the rows of `others`.
template <class T, int kCount, int kSteps>
__device__ inline void add_weighted(float (&sum)[kCount], const unsigned (&weights)[kSteps][4],
                                    uint64_t others) {
#pragma unroll
  for (int k = 0; k < kSteps; ++k) {
    cuda::product<T, 1>(sum, weights[k], others + (k * 2048 >> 4), 1);
  }
  cuda::products_commit();
}

template <class T, int kCount, int kSteps>
__device__ inline void pack_weights(unsigned (&to)[kSteps][4], const float (&from)[kCount]) {
#pragma unroll
  for (int k = 0; k < kSteps; ++k) cuda::left_of<T>(to[k], from, k);
}
template <int kSteps>
__device__ inline void pin(unsigned (&a)[kSteps][4]) {
#pragma unroll
  for (int k = 0; k < kSteps; ++k) cuda::pin(a[k]);
}
template <int kCount>
__device__ inline void clear(float (&c)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) c[i] = 0;
}

// Scores −inf outside `seen`, the columns that the lane's rows see.
template <int kCount>
__device__ inline void hide(float (&c)[kCount], const IndexRange (&seen)[2]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const int column = i / 4 * 8 + i % 2;
    const IndexRange& range = seen[i / 2 % 2];
    if (column < range.begin || column >= range.end) c[i] = -INFINITY;
  }
}
// `range` counted from the lane's first column in a tile that begins at `begin`.
__device__ inline IndexRange in_tile(IndexRange range, int begin) {
  const int first = begin + static_cast<int>(threadIdx.x) % 4 * 2;
  return {range.begin - first, range.end - first};
}

// Writes a warpgroup's 64 rows of accumulators, times `factor`, through its own rows of a tile.
template <class T, int kCount>
__device__ inline void write_rows(const CUtensorMap& map, const float (&c)[kCount], float factor,
                                  unsigned tile, int barrier, int row, int head, int batch) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int tile_row = static_cast<int>(threadIdx.x) % cuda::kWarpgroup / 32 * 16 + lane % 16;
#pragma unroll
  for (int k = 0; k < kCount / 8; ++k) {
    unsigned r[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      r[i] = cuda::pack<T>(c[8 * k + 2 * i] * factor, c[8 * k + 2 * i + 1] * factor);
    }
    const int chunk = (2 * (k % 4) + lane / 16) ^ (tile_row & 7);
    cuda::store_matrices(tile + k / 4 * kOwn * 128 + tile_row * 128 + chunk * 16, r);
  }
  cuda::fence_shared_writes();
  cuda::named_sync(barrier, cuda::kWarpgroup);
  if (threadIdx.x % cuda::kWarpgroup == 0) {
#pragma unroll
    for (int box = 0; box < kCount / 32; ++box) {
      cuda::store_box(map, tile + box * kOwn * 128, box * 64, row, head, batch);
    }
    cuda::commit_stores();
  }
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// `next`: the first visit.
template <class C, class Source>
__device__ inline void fetch_queries(const Arguments<Source>& a, const Memory<C>& m,
                                     typename Source::template Queries<C::kOthers> next, int begin,
                                     int b, int kh) {
  const Sizes& s = a.sizes;
  cuda::barrier_expect(m.own_full(), 2 * C::kOwnBytes);
  load_tile<kOwn, C::kWidth>(m.own, a.k, m.own_full(), begin, kh, b, cuda::kCacheFirstOut);
  load_tile<kOwn, C::kWidth>(m.own + C::kOwnBytes, a.v, m.own_full(), begin, kh, b,
                             cuda::kCacheFirstOut);
  Ring<C::kStages> ring;
  for (int i = 0; i < next.count; ++i, ++ring) {
    const int64_t rows = (int64_t{b} * s.heads + next.head) * a.padded;
#pragma unroll
    for (int which = 0; which < 2; ++which) {
      const unsigned full = m.full(which, ring.stage);
      cuda::barrier_wait(m.empty(which, ring.stage), ring.parity ^ 1);
      if (Source::kWindow && which == 0) store_place(m.place(ring.stage), next.query);
      cuda::barrier_expect(full, C::kOtherBytes + C::kStatisticsBytes);
      load_tile<C::kOthers, C::kWidth>(m.tile(which, ring.stage), which == 0 ? a.q : a.grad_out,
                                       full, next.query, next.head, b, cuda::kCacheKeep);
      cuda::load_bulk(m.numbers(which, ring.stage),
                      (which == 0 ? a.exponent : a.delta) + rows + next.query, C::kStatisticsBytes,
                      full);
    }
    next.advance(a.source, s);
  }
}

// A column's statistics: of query columns 8 j + 2 (lane mod 4) and the next.
__device__ inline float2 load_pair(unsigned address) {
  float2 r;
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(r.x), "=f"(r.y) : "r"(address));
  return r;
}

// dK and dV of the block's keys. Scores are transposed: rows are keys, columns queries.
template <class T, class C, class Source>
__global__ void __launch_bounds__(kThreads, 1)
    keys_kernel(const __grid_constant__ Arguments<Source> a) {
  extern __shared__ __align__(1024) char memory[];
  const Sizes& s = a.sizes;
  const auto [tile, head] =
      task_of(static_cast<int>(blockIdx.x), a.tiles, s.batch * s.key_heads, a.section);
  const int begin = tile * kOwn;  // the first keys are seen by most queries
  const int b = head / s.key_heads, kh = head % s.key_heads;
  const Memory<C> m(cuda::shared_address(memory));
  const typename Source::template Queries<C::kOthers> met(a.source, s, b, kh, begin,
                                                          min(begin + kOwn, s.keys));
  if (threadIdx.x == 0) m.init_barriers();
  __syncthreads();
  const int group = cuda::warpgroup() - 1;
  if (group < 0) {
    cuda::give_registers<Source::kWindow ? 40 : 24>();
    if (threadIdx.x == 0) fetch_queries(a, m, met, begin, b, kh);
    return;
  }
  cuda::take_registers<Source::kWindow ? 232 : 240>();

  constexpr int kCount = C::kOthers / 2, kSteps = C::kOthers / 16;
  const uint64_t own_k = cuda::descriptor(m.own, 0) + (group * 8192 >> 4);
  const uint64_t own_v = own_k + (C::kOwnBytes >> 4);
  const uint64_t tiles_q = cuda::descriptor(m.tile(0, 0), C::kOthers * 128);
  const uint64_t tiles_o = tiles_q + (C::kStages * C::kOtherBytes >> 4);
  constexpr unsigned kNext = C::kOtherBytes >> 4;
  const int own_begin = begin + group * 64;
  // Queries that see all of the warpgroup's keys.
  const IndexRange all{a.source.queries_of(s, own_begin + 63).begin,
                       a.source.queries_of(s, own_begin).end};

  float grad_k[C::kWidth / 2], grad_v[C::kWidth / 2];
  clear(grad_k);
  clear(grad_v);
  float p[kCount], ds[kCount];
  unsigned weights[kSteps][4];
  const int count = met.count;
  auto visit = met;
  cuda::barrier_wait(m.own_full(), 0);
  Ring<C::kStages> ring;
  // Scores and dP of the ring's tile are under way, nothing after them: makes weights, adds to dV,
  // makes dS.
  auto weigh = [&] {
    const int stage = ring.stage;
    const int query = Source::kWindow ? load_place(m.place(stage)) : visit.query;
    if constexpr (!Source::kWindow) visit.advance(a.source, s);
    cuda::products_wait<1>();
    cuda::pin(p);
    if (query < all.begin || query + C::kOthers > all.end) {
      const int lane = static_cast<int>(threadIdx.x) % cuda::kWarpgroup;
      const int key = own_begin + lane / 32 * 16 + lane % 32 / 4;
      hide(p, {in_tile(a.source.queries_of(s, key), query),
               in_tile(a.source.queries_of(s, key + 8), query)});
    }
    const unsigned numbers = m.numbers(0, stage) + threadIdx.x % 4 * 8;
#pragma unroll
    for (int j = 0; j < kCount / 4; ++j) {
      const float2 exponent = load_pair(numbers + j * 32);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int at = 4 * j + 2 * r;
        p[at] = cuda::exp2_fast(p[at] * a.scale_log2e - exponent.x);
        p[at + 1] = cuda::exp2_fast(p[at + 1] * a.scale_log2e - exponent.y);
      }
    }
    pack_weights<T>(weights, p);
    pin(weights);
    cuda::pin(grad_v);
    cuda::products_begin();
    add_weighted<T>(grad_v, weights, tiles_o + stage * kNext);
    cuda::products_wait<1>();
    cuda::pin(ds);
#pragma unroll
    for (int j = 0; j < kCount / 4; ++j) {
      const float2 delta = load_pair(numbers + C::kStages * C::kStatisticsBytes + j * 32);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int at = 4 * j + 2 * r;
        ds[at] = p[at] * (ds[at] - delta.x);
        ds[at + 1] = p[at + 1] * (ds[at + 1] - delta.y);
      }
    }
    cuda::products_wait<0>();
    pin(weights);
    cuda::pin(grad_v);
    cuda::barrier_arrive_warp(m.empty(1, stage));
    pack_weights<T>(weights, ds);
    pin(weights);
    cuda::pin(grad_k);
  };
  if (count > 0) {
    cuda::barrier_wait(m.full(0, 0), 0);
    cuda::products_begin();
    products<T, C::kWidth>(p, own_k, tiles_q);
    cuda::barrier_wait(m.full(1, 0), 0);
    products<T, C::kWidth>(ds, own_v, tiles_o);
    weigh();
    for (int i = 1; i < count; ++i) {
      const int last = ring.stage;
      ++ring;
      cuda::barrier_wait(m.full(0, ring.stage), ring.parity);
      cuda::pin(p);
      cuda::pin(ds);
      cuda::products_begin();
      add_weighted<T>(grad_k, weights, tiles_q + last * kNext);
      products<T, C::kWidth>(p, own_k, tiles_q + ring.stage * kNext);
      cuda::barrier_wait(m.full(1, ring.stage), ring.parity);
      products<T, C::kWidth>(ds, own_v, tiles_o + ring.stage * kNext);
      cuda::products_wait<2>();
      pin(weights);
      cuda::barrier_arrive_warp(m.empty(0, last));
      weigh();
    }
    cuda::products_begin();
    add_weighted<T>(grad_k, weights, tiles_q + ring.stage * kNext);
    cuda::products_wait<0>();
    cuda::pin(grad_k);
  }

  const unsigned own_rows = m.own + group * 8192;
  write_rows<T>(a.first, grad_k, a.scale, own_rows, 1 + group, own_begin, kh, b);
  write_rows<T>(a.second, grad_v, 1, own_rows + C::kOwnBytes, 1 + group, own_begin, kh, b);
  if (threadIdx.x % cuda::kWarpgroup == 0) cuda::wait_stores_read<0>();
}

template <class C, class Source>
__device__ inline void fetch_keys(const Arguments<Source>& a, const Memory<C>& m,
                                  const typename Source::template Keys<C::kOthers>& met, int begin,
                                  int b, int h) {
  cuda::barrier_expect(m.own_full(), 2 * C::kOwnBytes);
  load_tile<kOwn, C::kWidth>(m.own, a.q, m.own_full(), begin, h, b, cuda::kCacheFirstOut);
  load_tile<kOwn, C::kWidth>(m.own + C::kOwnBytes, a.grad_out, m.own_full(), begin, h, b,
                             cuda::kCacheFirstOut);
  Ring<C::kStages> ring;
  const int kh = h / a.sizes.group;
  for (int i = 0; i < met.count; ++i, ++ring) {
    const int key = met(i);
#pragma unroll
    for (int which = 0; which < 2; ++which) {
      const unsigned full = m.full(which, ring.stage);
      cuda::barrier_wait(m.empty(which, ring.stage), ring.parity ^ 1);
      if (Source::kWindow && which == 0) store_place(m.place(ring.stage), key);
      cuda::barrier_expect(full, C::kOtherBytes);
      load_tile<C::kOthers, C::kWidth>(m.tile(which, ring.stage), which == 0 ? a.k : a.v, full, key,
                                       kh, b, cuda::kCacheKeep);
    }
  }
}

// dQ of the block's queries.
template <class T, class C, class Source>
__global__ void __launch_bounds__(kThreads, 1)
    queries_kernel(const __grid_constant__ Arguments<Source> a) {
  extern __shared__ __align__(1024) char memory[];
  const Sizes& s = a.sizes;
  const auto [tile, head] =
      task_of(static_cast<int>(blockIdx.x), a.tiles, s.batch * s.heads, a.section);
  const int begin = (a.tiles - 1 - tile) * kOwn;  // the last queries see most keys
  const int b = head / s.heads, h = head % s.heads;
  const Memory<C> m(cuda::shared_address(memory));
  const typename Source::template Keys<C::kOthers> met(a.source, s, b, h, begin,
                                                       min(begin + kOwn, s.queries));
  if (threadIdx.x == 0) m.init_barriers();
  __syncthreads();
  const int group = cuda::warpgroup() - 1;
  if (group < 0) {
    cuda::give_registers<Source::kWindow ? 40 : 24>();
    if (threadIdx.x == 0) fetch_keys(a, m, met, begin, b, h);
    return;
  }
  cuda::take_registers<Source::kWindow ? 232 : 240>();

  constexpr int kCount = C::kOthers / 2, kSteps = C::kOthers / 16;
  const uint64_t own_q = cuda::descriptor(m.own, 0) + (group * 8192 >> 4);
  const uint64_t own_o = own_q + (C::kOwnBytes >> 4);
  const uint64_t tiles_k = cuda::descriptor(m.tile(0, 0), C::kOthers * 128);
  const uint64_t tiles_v = tiles_k + (C::kStages * C::kOtherBytes >> 4);
  constexpr unsigned kNext = C::kOtherBytes >> 4;
  const int own_begin = begin + group * 64;
  const IndexRange all{a.source.keys_of(s, own_begin + 63).begin,
                       a.source.keys_of(s, own_begin).end};
  const int lane = static_cast<int>(threadIdx.x) % cuda::kWarpgroup;
  const int query = own_begin + lane / 32 * 16 + lane % 32 / 4;
  float exponent[2], delta[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int64_t row = int64_t{head} * a.padded + query + 8 * r;
    exponent[r] = a.exponent[row];
    delta[r] = a.delta[row];
  }

  float sum[C::kWidth / 2];
  clear(sum);
  float p[kCount], ds[kCount];
  unsigned weights[kSteps][4];
  cuda::barrier_wait(m.own_full(), 0);
  Ring<C::kStages> ring;
  auto weigh = [&](int key) {
    cuda::pin(p);
    if (key < all.begin || key + C::kOthers > all.end) {
      hide(p, {in_tile(a.source.keys_of(s, query), key),
               in_tile(a.source.keys_of(s, query + 8), key)});
    }
#pragma unroll
    for (int at = 0; at < kCount; ++at) {
      p[at] = cuda::exp2_fast(p[at] * a.scale_log2e - exponent[at / 2 % 2]);
    }
  };
  auto finish = [&] {  // nothing is under way
    cuda::pin(ds);
    cuda::barrier_arrive_warp(m.empty(1, ring.stage));
#pragma unroll
    for (int at = 0; at < kCount; ++at) ds[at] = p[at] * (ds[at] - delta[at / 2 % 2]);
    pack_weights<T>(weights, ds);
    pin(weights);
    cuda::pin(sum);
  };
  if (met.count > 0) {
    cuda::barrier_wait(m.full(0, 0), 0);
    cuda::products_begin();
    products<T, C::kWidth>(p, own_q, tiles_k);
    cuda::barrier_wait(m.full(1, 0), 0);
    products<T, C::kWidth>(ds, own_o, tiles_v);
    int key = Source::kWindow ? load_place(m.place(0)) : met(0);
    cuda::products_wait<1>();
    weigh(key);
    cuda::products_wait<0>();
    finish();
    for (int i = 1; i < met.count; ++i) {
      const int last = ring.stage;
      ++ring;
      cuda::barrier_wait(m.full(0, ring.stage), ring.parity);
      cuda::pin(p);
      cuda::pin(ds);
      cuda::products_begin();
      products<T, C::kWidth>(p, own_q, tiles_k + ring.stage * kNext);
      add_weighted<T>(sum, weights, tiles_k + last * kNext);
      cuda::barrier_wait(m.full(1, ring.stage), ring.parity);
      products<T, C::kWidth>(ds, own_o, tiles_v + ring.stage * kNext);
      key = Source::kWindow ? load_place(m.place(ring.stage)) : met(i);
      cuda::products_wait<2>();
      weigh(key);
      cuda::products_wait<0>();
      pin(weights);
      cuda::pin(sum);
      cuda::barrier_arrive_warp(m.empty(0, last));
      finish();
    }
    cuda::products_begin();
    add_weighted<T>(sum, weights, tiles_k + ring.stage * kNext);
    cuda::products_wait<0>();
    cuda::pin(sum);
  }
  write_rows<T>(a.first, sum, a.scale, m.own + group * 8192, 1 + group, own_begin, h, b);
  if (threadIdx.x % cuda::kWarpgroup == 0) cuda::wait_stores_read<0>();
}

#else

template <class T, class C, class Source>
__global__ void keys_kernel(const __grid_constant__ Arguments<Source>) {}
template <class T, class C, class Source>
__global__ void queries_kernel(const __grid_constant__ Arguments<Source>) {}

#endif

template <class Source>
struct Inputs {
  const Sizes& s;
  const Source& source;  // of the own side
  const Tensor &q, &k, &v, &grad_out;
  const RowStatistics& rows;
  const DenseGradients& grads;

  Arguments<Source> arguments(int query_rows, int key_rows) const {
    const auto map = [](const Tensor& x, int box) {
      return cuda::tensor_map("dense_attention", x, box);
    };
    Arguments<Source> a{};
    a.sizes = s;
    a.source = source;
    a.q = map(q, query_rows);
    a.grad_out = map(grad_out, query_rows);
    a.k = map(k, key_rows);
    a.v = map(v, key_rows);
    a.exponent = cuda::data<float>(rows.exponent);
    a.delta = cuda::data<float>(rows.delta);
    a.padded = rows.padded;
    a.scale = static_cast<float>(s.scale);
    a.scale_log2e = a.scale * kLog2e;
    return a;
  }
};

template <class T, class C, class Source>
void run_keys(const Inputs<Source>& in) {
  const Sizes& s = in.s;
  const int heads = s.batch * s.key_heads;
  Arguments<Source> a = in.arguments(C::kOthers, kOwn);
  a.first = cuda::tensor_map("dense_attention", in.grads.key, 64);
  a.second = cuda::tensor_map("dense_attention", in.grads.value, 64);
  a.tiles = (s.keys + kOwn - 1) / kOwn;
  a.section = section_of(int64_t{2} * (s.width + s.value_width) * s.queries * s.group, heads);
  cuda::launch("dense_attention", in.q.device(), keys_kernel<T, C, Source>,
               grid_of(int64_t{a.tiles} * heads), kThreads, C::kShared, a);
}

template <class T, class C, class Source>
void run_queries(const Inputs<Source>& in) {
  const Sizes& s = in.s;
  const int heads = s.batch * s.heads;
  Arguments<Source> a = in.arguments(kOwn, C::kOthers);
  a.first = cuda::tensor_map("dense_attention", in.grads.query, 64);
  a.tiles = (s.queries + kOwn - 1) / kOwn;
  a.section = section_of(int64_t{2} * (s.width + s.value_width) * s.keys / s.group, heads);
  cuda::launch("dense_attention", in.q.device(), queries_kernel<T, C, Source>,
               grid_of(int64_t{a.tiles} * heads), kThreads, C::kShared, a);
}

}  // namespace tessera::dense::hopper_backward
