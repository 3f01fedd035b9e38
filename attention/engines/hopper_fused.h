// Backward of softmax attention in halves on Hopper by one kernel, for heads of up to 64 elements:
// five products for each pair of tiles where the two kernels of hopper_backward.h need seven. A
// block owns keys, as in keys_kernel there; its dS goes through shared memory, as its columns are
// the rows of dQ. What it finds for dQ a warp adds in memory in f32 by bulk copies, whenever it is
// ready: the order of the sums, and with it their last bits, differ from run to run
// (core/deterministic.h).
#pragma once

#include "tessera/attention/engines/hopper_backward.h"
#include "tessera/attention/engines/unpack.h"
#include "tessera/core/create.h"

namespace tessera::dense::hopper_backward {

// dQ of a tile of queries is two parts of 64 × 64, one from each warpgroup, each kept as its 128
// threads hold the accumulators, four and four.
struct FusedShape : Shape<64, 128, 2> {
  static constexpr int kPart = 64 * 64;
  static constexpr unsigned kPartBytes = kPart * sizeof(float);
  static constexpr int kPartStages = 2;
  static constexpr unsigned kSlopeBytes = kTileBytes<kOwn, kOthers>;  // of dS, kept twice
  static constexpr unsigned kParts = 2 * kSlopeBytes;
  static constexpr unsigned kTiles = kParts + kPartStages * 2 * kPartBytes;
  static constexpr unsigned kMoreBarriers = kTiles + Shape::kShared;
  static constexpr unsigned kShared = kMoreBarriers + 8 * (2 + 2 * kPartStages);
};

struct FusedMemory : Memory<FusedShape> {
  using C = FusedShape;
  unsigned base;
  __device__ explicit FusedMemory(unsigned begin) : Memory(begin + C::kTiles), base(begin) {}
  // Of the i-th tile of queries that the block meets.
  __device__ unsigned slopes(int i) const { return base + i % 2 * C::kSlopeBytes; }
  __device__ unsigned parts(int i) const {
    return base + C::kParts + i % C::kPartStages * 2 * C::kPartBytes;
  }
  __device__ unsigned slopes_full(int i) const { return base + C::kMoreBarriers + 8 * (i % 2); }
  __device__ unsigned parts_full(int i) const { return slopes_full(0) + 8 * (2 + part_stage(i)); }
  __device__ unsigned parts_empty(int i) const { return parts_full(i) + 8 * C::kPartStages; }
  __device__ static int part_stage(int i) { return i % C::kPartStages; }
  __device__ static unsigned part_parity(int i) { return i / C::kPartStages & 1; }
  __device__ void init_barriers() const {
    for (int i = 0; i < 2; ++i) cuda::barrier_init(slopes_full(i), 2 * cuda::kWarpgroup);
    for (int i = 0; i < C::kPartStages; ++i) {
      cuda::barrier_init(parts_full(i), 2 * cuda::kWarpgroup);
      cuda::barrier_init(parts_empty(i), 1);
    }
    Memory::init_barriers();
  }
};

template <class Source>
struct FusedArguments : Arguments<Source> {
  float* sums;      // of dQ: the two parts of every tile of queries, head after head
  int query_tiles;  // per head
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// Four consecutive numbers into shared memory, at a multiple of 16 bytes.
__device__ inline void store_four(unsigned address, const float* x) {
  asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(address), "f"(x[0]), "f"(x[1]),
               "f"(x[2]), "f"(x[3])
               : "memory");
}

// By one thread: adds the parts of every tile of queries that the block meets.
template <class Source>
__device__ inline void add_parts(const FusedArguments<Source>& a, const FusedMemory& m,
                                 typename Source::template Queries<FusedShape::kOthers> next,
                                 int b) {
  using C = FusedShape;
  for (int i = 0; i < next.count; ++i) {
    const int64_t head = int64_t{b} * a.sizes.heads + next.head;
    const int64_t tile = head * a.query_tiles + next.query / C::kOthers;
    cuda::barrier_wait(m.parts_full(i), FusedMemory::part_parity(i));
    cuda::add_bulk(a.sums + tile * (2 * C::kPart), m.parts(i), 2 * C::kPartBytes);
    cuda::commit_stores();
    next.advance(a.source, a.sizes);
    cuda::wait_stores_read<0>();
    cuda::barrier_arrive(m.parts_empty(i));
  }
  cuda::wait_stores<0>();
}

// dK, dV and what the block's keys add to dQ. Scores are transposed: rows are keys, columns
// queries.
template <class T, class Source>
__global__ void __launch_bounds__(kThreads, 1)
    fused_kernel(const __grid_constant__ FusedArguments<Source> a) {
  using C = FusedShape;
  extern __shared__ __align__(1024) char memory[];
  const Sizes& s = a.sizes;
  const auto [tile, head] =
      task_of(static_cast<int>(blockIdx.x), a.tiles, s.batch * s.key_heads, a.section);
  const int begin = tile * kOwn;
  const int b = head / s.key_heads, kh = head % s.key_heads;
  const FusedMemory m(cuda::shared_address(memory));
  const typename Source::template Queries<C::kOthers> met(a.source, s, b, kh, begin,
                                                          min(begin + kOwn, s.keys));
  if (threadIdx.x == 0) m.init_barriers();
  __syncthreads();
  const int group = cuda::warpgroup() - 1;
  if (group < 0) {
    cuda::give_registers<40>();
    if (threadIdx.x == 0) fetch_queries<C, Source>(a, m, met, begin, b, kh);
    if (threadIdx.x == 32) add_parts(a, m, met, b);
    return;
  }
  cuda::take_registers<232>();

  constexpr int kCount = C::kOthers / 2, kSteps = C::kOthers / 16;
  constexpr unsigned kNext = C::kOtherBytes >> 4;
  const uint64_t all_k = cuda::descriptor(m.own, 0);
  const uint64_t own_k = all_k + (group * 8192 >> 4), own_v = own_k + (C::kOwnBytes >> 4);
  const uint64_t tiles_q = cuda::descriptor(m.tile(0, 0), C::kOthers * 128);
  const uint64_t tiles_o = tiles_q + C::kStages * kNext;
  const int thread = static_cast<int>(threadIdx.x) % cuda::kWarpgroup, lane = thread % 32;
  const int own_begin = begin + group * 64;
  // Queries that see all of the warpgroup's keys.
  const IndexRange all{a.source.queries_of(s, own_begin + 63).begin,
                       a.source.queries_of(s, own_begin).end};

  float grad_k[C::kWidth / 2], grad_v[C::kWidth / 2];
  float p[kCount], ds[kCount], grad_q[C::kPart / cuda::kWarpgroup];
  unsigned weights[kSteps][4], slopes[kSteps][4];
  clear(grad_k);
  clear(grad_v);
  clear(grad_q);
  auto visit = met;
  Ring<C::kStages> ring;

  auto start_scores = [&] {
    cuda::barrier_wait(m.full(0, ring.stage), ring.parity);
    cuda::pin(p);
    cuda::products_begin();
    products<T, C::kWidth>(p, own_k, tiles_q + ring.stage * kNext);
  };
  auto start_slopes = [&] {
    cuda::barrier_wait(m.full(1, ring.stage), ring.parity);
    cuda::pin(ds);
    cuda::products_begin();
    products<T, C::kWidth>(ds, own_v, tiles_o + ring.stage * kNext);
  };
  // Scores are there, dP is under way: makes weights, starts to add to dV.
  auto weigh = [&] {
    const int query = Source::kWindow ? load_place(m.place(ring.stage)) : visit.query;
    if constexpr (!Source::kWindow) visit.advance(a.source, s);
    cuda::pin(p);
    if (query < all.begin || query + C::kOthers > all.end) {
      const int key = own_begin + thread / 32 * 16 + lane / 4;
      hide(p, {in_tile(a.source.queries_of(s, key), query),
               in_tile(a.source.queries_of(s, key + 8), query)});
    }
    const unsigned numbers = m.numbers(0, ring.stage) + threadIdx.x % 4 * 8;
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
    add_weighted<T>(grad_v, weights, tiles_o + ring.stage * kNext);
  };
  // dP is there or nearly: dS of tile i, kept, and handed to the other warpgroup. Nothing is under
  // way then.
  auto slope = [&](int i) {
    cuda::products_wait<1>();
    cuda::pin(ds);
    const unsigned numbers = m.numbers(1, ring.stage) + threadIdx.x % 4 * 8;
#pragma unroll
    for (int j = 0; j < kCount / 4; ++j) {
      const float2 delta = load_pair(numbers + j * 32);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int at = 4 * j + 2 * r;
        const float2 w = cuda::unpack<T>(weights[at / 8][at / 2 % 4]);
        ds[at] = w.x * (ds[at] - delta.x);
        ds[at + 1] = w.y * (ds[at + 1] - delta.y);
      }
    }
    pack_weights<T>(slopes, ds);
    const int row = group * 64 + thread / 32 * 16 + lane % 16;
    const unsigned to = m.slopes(i) + row * 128;
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
      const int chunk = (2 * (k % 4) + lane / 16) ^ (row & 7);
      cuda::store_matrices(to + k / 4 * kOwn * 128 + chunk * 16, slopes[k]);
    }
    cuda::fence_shared_writes();
    cuda::barrier_arrive(m.slopes_full(i));
    cuda::products_wait<0>();
    pin(weights);
    pin(slopes);
    cuda::pin(grad_v);
    cuda::pin(grad_k);
    cuda::barrier_arrive_warp(m.empty(1, ring.stage));
  };
  // From dS of tile i, whose queries are in `stage`: adds to dK, and makes dQ of 64 of them once
  // both warpgroups have theirs.
  auto start_gradients = [&](int i, int stage) {
    cuda::pin(grad_q);
    cuda::products_begin();
    add_weighted<T>(grad_k, slopes, tiles_q + stage * kNext);
    cuda::barrier_wait(m.slopes_full(i), i >> 1 & 1);
    const uint64_t from = cuda::descriptor(m.slopes(i) + group * kOwn * 128, kOwn * 128);
#pragma unroll
    for (int k = 0; k < kOwn / 16; ++k) {
      cuda::product<T, 1, 1>(grad_q, from + (k * 2048 >> 4), all_k + (k * 2048 >> 4), k > 0);
    }
    cuda::products_commit();
  };
  auto hand_over = [&](int i, int stage) {  // to add_parts()
    pin(slopes);
    cuda::pin(grad_q);
    cuda::pin(grad_k);
    cuda::barrier_arrive_warp(m.empty(0, stage));
    cuda::barrier_wait(m.parts_empty(i), FusedMemory::part_parity(i) ^ 1);
    const unsigned to = m.parts(i) + group * C::kPartBytes + thread * 16;
#pragma unroll
    for (int n = 0; n < C::kPart / cuda::kWarpgroup / 4; ++n) {
      store_four(to + n * 2048, grad_q + 4 * n);
    }
    cuda::fence_shared_writes();
    cuda::barrier_arrive(m.parts_full(i));
  };

  cuda::barrier_wait(m.own_full(), 0);
  if (met.count > 0) {
    start_scores();
    start_slopes();
    cuda::products_wait<1>();
    weigh();
    slope(0);
    for (int i = 1; i < met.count; ++i) {
      const int last = ring.stage;
      ++ring;
      start_gradients(i - 1, last);
      start_scores();
      cuda::products_wait<1>();
      hand_over(i - 1, last);
      start_slopes();
      cuda::products_wait<1>();
      weigh();
      slope(i);
    }
    start_gradients(met.count - 1, ring.stage);
    cuda::products_wait<0>();
    hand_over(met.count - 1, ring.stage);
  }
  cuda::named_sync(3, 2 * cuda::kWarpgroup);  // both have done with the keys
  const unsigned staging = m.own + group * 8192;
  write_rows<T>(a.first, grad_k, a.scale, staging, 1 + group, own_begin, kh, b);
  write_rows<T>(a.second, grad_v, 1, staging + C::kOwnBytes, 1 + group, own_begin, kh, b);
  if (thread == 0) cuda::wait_stores_read<0>();
}

#else

template <class T, class Source>
__global__ void fused_kernel(const __grid_constant__ FusedArguments<Source>) {}

#endif

// dQ from its sums, a block for each tile of queries: a warp takes 16 rows of a part.
template <class T, class Source>
__global__ void __launch_bounds__(256)
    queries_of_sums_kernel(const __grid_constant__ FusedArguments<Source> a, const Heads<T> to) {
  using C = FusedShape;
  __shared__ __align__(1024) char staging[8 * kTileBytes<16, 64>];
  const Sizes& s = a.sizes;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int tile = static_cast<int>(blockIdx.x) % a.query_tiles;
  const int head = static_cast<int>(blockIdx.x) / a.query_tiles;
  const float* from =
      a.sums + (int64_t{blockIdx.x} * 2 + warp / 4) * C::kPart + threadIdx.x % cuda::kWarpgroup * 4;
  cuda::Accumulator c[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const auto x = cuda::load<4>(from + i * 4 * cuda::kWarpgroup);
#pragma unroll
    for (int e = 0; e < 4; ++e) c[i][e] = x[e];
  }
  store_rows<T, 64>(c, a.scale, a.scale, staging + warp * kTileBytes<16, 64>,
                    to.at(head / s.heads, head % s.heads), to.row, tile * C::kOthers + warp * 16,
                    s.queries, s.width);
}

// `source` of `in` is by keys.
template <class T, class Source>
void run_fused(const Inputs<Source>& in) {
  using C = FusedShape;
  const Sizes& s = in.s;
  const Device device = in.q.device();
  const int heads = s.batch * s.key_heads;
  FusedArguments<Source> a{in.arguments(C::kOthers, kOwn), nullptr, 0};
  a.first = cuda::tensor_map("dense_attention", in.grads.key, 64);
  a.second = cuda::tensor_map("dense_attention", in.grads.value, 64);
  a.tiles = (s.keys + kOwn - 1) / kOwn;
  a.section = section_of(int64_t{2} * (s.width + s.value_width) * s.queries * s.group, heads);
  a.query_tiles = (s.queries + C::kOthers - 1) / C::kOthers;
  const int64_t tiles = int64_t{a.query_tiles} * s.batch * s.heads;
  const Tensor sums = zeros({tiles, 2 * C::kPart}, {DType::f32, device});
  a.sums = cuda::data<float>(sums);
  cuda::launch("dense_attention", device, fused_kernel<T, Source>,
               grid_of(int64_t{a.tiles} * heads), kThreads, C::kShared, a);
  cuda::launch("dense_attention", device, queries_of_sums_kernel<T, Source>, grid_of(tiles), 256, 0,
               a, Heads<T>(in.grads.query));
}

}  // namespace tessera::dense::hopper_backward
