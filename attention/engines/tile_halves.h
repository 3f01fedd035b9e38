// The generic tile in halves on tensor cores, scores and sums in f32. Four warps of 16 rows each;
// scores and weights stay in registers, in the layout of accumulators (mma.h). Rows of the tensors
// are a multiple of 16 bytes, and aligned to them. Tiles of rows lie in shared memory in pieces of
// 64 columns.
#pragma once

#include "tessera/attention/engines/half_tiles.h"
#include "tessera/attention/engines/tile_block.h"

namespace tessera::tile {

constexpr unsigned kHalfThreads = 128;
constexpr unsigned kPieceBytes = kTileSide * kTileSide * 2;
constexpr size_t kHalfSumBytes = kTileSide * kTileSide * sizeof(float);  // of a part
constexpr size_t kCellBytes = kTileSide * (kTileSide + 1) * sizeof(float) + kCellIndexBytes;

// Shared memory: `pieces` of rows, then sums, cells of a table, and what blocks share.
inline size_t half_bytes(int pieces, int parts_per_block, bool cells) {
  return pieces * kPieceBytes + parts_per_block * kHalfSumBytes + sizeof(Shared<float>) +
         (cells ? kCellBytes : 0);
}

struct HalfLayout {
  static constexpr int kCount = 32;
  static __device__ int lane() { return static_cast<int>(threadIdx.x % cuda::kWarp); }
  static __device__ int first_row() {
    return static_cast<int>(threadIdx.x / cuda::kWarp) * 16 + lane() / 4;
  }
  static __device__ int row(int e) { return first_row() + e % 4 / 2 * 8; }
  static __device__ int column(int e) { return e / 4 * 8 + lane() % 4 * 2 + e % 2; }
  static __device__ float exp(float x) { return cuda::exp2_fast(x * dense::kLog2e); }
};

using Scores = cuda::Accumulator[8];
using Weights = unsigned[4][4];  // left operands of steps over 16 columns

// Rows of a head on their way into pieces from `to` on.
__device__ inline void copy_rows(unsigned to, const Operand& x) {
  const int chunk = static_cast<int>(threadIdx.x % 8);
  const char* data = static_cast<const char*>(x.x.data);
#pragma unroll
  for (int i = 0; i < kTileSide; i += kHalfThreads / 8) {
    const int r = i + static_cast<int>(threadIdx.x / 8);
    const int row = x.rows[r];
    const char* from = data + 2 * (x.base + (row < 0 ? 0 : row * x.x.row));
    unsigned at = to + dense::chunk_offset<kTileSide>(r, chunk);
    for (int column = chunk * 8; column < parts_of(x.x.width) * kTileSide; column += kTileSide) {
      const bool there = row >= 0 && column < x.x.width;
      cuda::copy_async(at, there ? from + 2 * column : data, there);
      at += kPieceBytes;
    }
  }
}

// c = a bᵀ: the warp's rows of `a`, all rows of `b`.
template <class H>
__device__ void row_products(Scores& c, unsigned a, unsigned b, int pieces) {
  dense::clear(c);
  a += dense::lane_offset<kTileSide>() + threadIdx.x / cuda::kWarp * (kPieceBytes / 4);
  b += dense::lane_offset<kTileSide>();
#pragma unroll 1
  for (int piece = 0; piece < pieces; ++piece) {
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      unsigned left[4];
      dense::load_left(left, a ^ (step * 32));
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        unsigned right[4];
        cuda::load_matrices(right, (b ^ (step * 32)) + n * (kPieceBytes / 4));
        cuda::mma<H>(c[2 * n], left, right[0], right[1]);
        cuda::mma<H>(c[2 * n + 1], left, right[2], right[3]);
      }
    }
    a += kPieceBytes;
    b += kPieceBytes;
  }
}

// The sums of a part, `shrunk`: those of rows 0–7 and 8–15 times factors, += weights · rows of a
// piece.
template <class H>
__device__ void add_rows(float* sums, const Weights& weights, unsigned piece,
                         const float (&shrink)[2]) {
  piece += dense::lane_offset<kTileSide>();
#pragma unroll
  for (int n = 0; n < 4; ++n) {
    cuda::Accumulator c[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const auto old = cuda::load<4>(sums + ((2 * n + i) * kHalfThreads + threadIdx.x) * 4);
#pragma unroll
      for (int e = 0; e < 4; ++e) c[i][e] = old[e] * shrink[e / 2];
    }
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      unsigned right[4];
      cuda::load_transposed(right, (piece ^ (n * 32)) + step * (kPieceBytes / 4));
      cuda::mma<H>(c[0], weights[step], right[0], right[2]);
      cuda::mma<H>(c[1], weights[step], right[1], right[3]);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      cuda::store(sums + ((2 * n + i) * kHalfThreads + threadIdx.x) * 4,
                  cuda::Vector<float, 4>{{c[i][0], c[i][1], c[i][2], c[i][3]}});
    }
  }
}

// Two neighbours of a row, elements e and e + 1, as a part of the weights.
template <class H>
__device__ void set_pair(Weights& w, int e, float first, float second) {
  w[e / 8][e % 8 / 4 * 2 + e % 4 / 2] = cuda::pack<H>(first, second);
}

template <class F>
struct HalfBlock : Block<F, float, HalfLayout> {
  unsigned rows;  // address of the first piece of the tile's own rows
  float* sums;
  void *values, *indices;  // of cells

  __device__ HalfBlock(const TileArguments& a, const F& f, char* memory, int pieces)
      : Block<F, float, HalfLayout>{a, f,
                                    *reinterpret_cast<Shared<float>*>(
                                        memory + pieces * kPieceBytes +
                                        a.parts_per_block * kHalfSumBytes)},
        rows(cuda::shared_address(memory)),
        sums(reinterpret_cast<float*>(memory + pieces * kPieceBytes)) {
    indices = &this->shared + 1;
    values = static_cast<char*>(indices) + kCellIndexBytes;
  }
  __device__ bool bf16() const { return this->a.query.dtype == DType::bf16; }

  __device__ float* sums_of(int part) const {
    return sums + part * (kHalfSumBytes / sizeof(float));
  }
  __device__ void clear_sums(int parts) const {
    for (int n = 0; n < 8 * parts; ++n) {
      cuda::store(sums + (n * kHalfThreads + threadIdx.x) * 4, cuda::Vector<float, 4>{});
    }
  }
  __device__ void products(Scores& c, unsigned own, unsigned others, int pieces) const {
    bf16() ? row_products<bfloat16>(c, own, others, pieces)
           : row_products<float16>(c, own, others, pieces);
  }
  __device__ void add(int part, const Weights& w, unsigned piece, const float (&shrink)[2]) const {
    bf16() ? add_rows<bfloat16>(sums_of(part), w, piece, shrink)
           : add_rows<float16>(sums_of(part), w, piece, shrink);
  }
  __device__ void pair(Weights& w, int e, float first, float second) const {
    bf16() ? set_pair<bfloat16>(w, e, first, second) : set_pair<float16>(w, e, first, second);
  }
  // Parts [from, from + parts) to the columns of `x` from part `first` on.
  __device__ void store(const TileTensor& x, int64_t base, const int* ids, int first, int parts,
                        int from, const float (&factor)[2]) const {
    for (int part = 0; part < parts; ++part) {
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        const auto c = cuda::load<4>(sums_of(from + part) + (n * kHalfThreads + threadIdx.x) * 4);
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const int row = ids[HalfLayout::row(2 * r)];
          const int column = (first + part) * kTileSide + HalfLayout::column(4 * n);
          if (row < 0 || column >= x.width) continue;
          const float low = c[2 * r] * factor[r], high = c[2 * r + 1] * factor[r];
          *reinterpret_cast<unsigned*>(static_cast<char*>(x.data) +
                                       2 * (base + row * x.row + column)) =
              bf16() ? cuda::pack<bfloat16>(low, high) : cuda::pack<float16>(low, high);
        }
      }
    }
  }
};

// Over the four lanes of a row.
template <class Op>
__device__ float over_quad(float x, Op op) {
  x = op(x, __shfl_xor_sync(cuda::kAllLanes, x, 1));
  return op(x, __shfl_xor_sync(cuda::kAllLanes, x, 2));
}

// Products become weights of the online softmax; by how much earlier sums shrink.
template <class F>
__device__ void soften(const HalfBlock<F>& block, Scores& c, Weights& w, unsigned mask,
                       float (&top)[2], float (&total)[2], float (&shrink)[2]) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float best = top[r];
#pragma unroll
    for (int n = 0; n < 8; ++n) {
#pragma unroll
      for (int x = 2 * r; x < 2 * r + 2; ++x) {
        const int e = 4 * n + x;
        c[n][x] = (mask >> e & 1) != 0
                      ? block.score(c[n][x], HalfLayout::row(e), HalfLayout::column(e))
                      : kNone<float>;
        best = c[n][x] > best ? c[n][x] : best;
      }
    }
    best = over_quad(best, cuda::Max());
    const float shift = best == kNone<float> ? 0 : best;
    shrink[r] = HalfLayout::exp(top[r] - shift);
    top[r] = best;
    total[r] *= shrink[r];
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      const float first = HalfLayout::exp(c[n][2 * r] - shift);
      const float second = HalfLayout::exp(c[n][2 * r + 1] - shift);
      total[r] += first + second;
      block.pair(w, 4 * n + 2 * r, first, second);
    }
  }
}

template <class F>
__global__ void __launch_bounds__(kHalfThreads, 4)
    forward_halves_kernel(const __grid_constant__ TileArguments a, const F f) {
  extern __shared__ __align__(1024) char memory[];
  const int key_pieces = parts_of(a.key.width), value_pieces = parts_of(a.value.width);
  HalfBlock<F> block(a, f, memory, 2 * key_pieces + value_pieces);
  Shared<float>& shared = block.shared;
  const unsigned q = block.rows, k = q + key_pieces * kPieceBytes, v = k + key_pieces * kPieceBytes;
  const Parts parts(a);
  const int tile = block.begin_forward(parts);
  block.template set_queries<false>(tile);
  copy_rows(q, block.queries(a.query));
  cuda::commit_copies();
  block.clear_sums(parts.count());
  float top[2] = {kNone<float>, kNone<float>}, total[2] = {}, shrink[2];
  int entries = 0;
  for (int first = 0; first < shared.candidates.count; first += kTileSide) {
    unsigned mask;
    if (!block.meet_keys(first, mask)) continue;
    entries += __popc(mask);
    copy_rows(k, block.keys(a.key));
    cuda::commit_copies();
    copy_rows(v, block.keys(a.value));
    cuda::commit_copies();
    cuda::wait_copies<1>();
    __syncthreads();
    Scores c;
    Weights w;
    block.products(c, q, k, key_pieces);
    soften(block, c, w, mask, top, total, shrink);
    cuda::wait_copies<0>();
    __syncthreads();
    for (int part = parts.first; part < parts.last; ++part) {
      block.add(part - parts.first, w, v + part * kPieceBytes, shrink);
    }
  }
  cuda::wait_copies<0>();
  float factor[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    total[r] = over_quad(total[r], cuda::Sum());
    factor[r] = total[r] == 0 ? 0 : 1 / total[r];
    if (parts.first == 0 && threadIdx.x % 4 == 0) {
      block.store_lse(HalfLayout::row(2 * r), top[r], total[r]);
    }
  }
  const TileTensor& out = a.results[0];
  block.store(out, out.at(block.b, block.h), shared.query_rows, parts.first, parts.count(), 0,
              factor);
  if (parts.first == 0) block.count(entries);
}

template <class F>
__global__ void __launch_bounds__(kHalfThreads, 3)
    over_queries_halves_kernel(const __grid_constant__ TileArguments a, const F f) {
  extern __shared__ __align__(1024) char memory[];
  const int key_pieces = parts_of(a.key.width), value_pieces = parts_of(a.value.width);
  HalfBlock<F> block(a, f, memory, 2 * (key_pieces + value_pieces));
  Shared<float>& shared = block.shared;
  const unsigned q = block.rows, o = q + key_pieces * kPieceBytes;
  const unsigned k = o + value_pieces * kPieceBytes, v = k + key_pieces * kPieceBytes;
  const Parts parts(a);
  const Walk walk(a, parts);
  const float scale = static_cast<float>(a.scale), ones[2] = {1, 1};
  for (int64_t item = walk.copy; item < walk.length(); item += a.walk.parts) {
    const int tile = walk.find(item, block.h, block.b);
    block.kh = block.h / (a.heads / a.key_heads);
    block.template set_queries<true>(tile);
    copy_rows(q, block.queries(a.query));
    copy_rows(o, block.queries(a.grad_output));
    cuda::commit_copies();
    block.clear_sums(parts.count());
    for (int first = 0; first < shared.candidates.count; first += kTileSide) {
      unsigned mask;
      if (!block.meet_keys(first, mask)) continue;
      copy_rows(k, block.keys(a.key));
      cuda::commit_copies();
      copy_rows(v, block.keys(a.value));
      cuda::commit_copies();
      cuda::wait_copies<1>();
      __syncthreads();
      Scores c, d;
      Weights w;
      block.products(c, q, k, key_pieces);
      cuda::wait_copies<0>();
      __syncthreads();
      block.products(d, o, v, value_pieces);
#pragma unroll
      for (int e = 0; e < HalfLayout::kCount; e += 2) {
        float slope[2] = {};
#pragma unroll
        for (int i = e; i < e + 2; ++i) {
          float &s = c[i / 4][i % 4], &g = d[i / 4][i % 4];
          s *= scale;
          if ((mask >> i & 1) == 0) continue;
          const auto x = block.entry(s, g, HalfLayout::row(i), HalfLayout::column(i));
          g = x.scored_slope;
          slope[i - e] = x.slope;
        }
        block.pair(w, e, slope[0], slope[1]);
      }
      if constexpr (HalfBlock<F>::Features::kTables > 0) {
        if (parts.first == 0) {
          add_tables(
              block, [&](int e) { return c[e / 4][e % 4]; }, [&](int e) { return d[e / 4][e % 4]; },
              mask, walk.copy, block.values, block.indices);
        }
      }
      for (int part = parts.first; part < parts.last; ++part) {
        block.add(part - parts.first, w, k + part * kPieceBytes, ones);
      }
    }
    cuda::wait_copies<0>();
    const float factor[2] = {scale, scale};
    const TileTensor& out = a.results[0];
    block.store(out, out.at(block.b, block.h), shared.query_rows, parts.first, parts.count(), 0,
                factor);
  }
}

template <class F>
__global__ void __launch_bounds__(kHalfThreads, 3)
    over_keys_halves_kernel(const __grid_constant__ TileArguments a, const F f) {
  extern __shared__ __align__(1024) char memory[];
  const int key_pieces = parts_of(a.key.width), value_pieces = parts_of(a.value.width);
  HalfBlock<F> block(a, f, memory, 2 * (key_pieces + value_pieces));
  Shared<float>& shared = block.shared;
  const unsigned k = block.rows, v = k + key_pieces * kPieceBytes;
  const unsigned q = v + value_pieces * kPieceBytes, o = q + key_pieces * kPieceBytes;
  const Parts parts(a);
  const int middle = min(max(parts.first, key_pieces), parts.last);  // dK before, dV from here on
  const int tile = block.begin_over_keys(parts);
  const float scale = static_cast<float>(a.scale), scales[2] = {scale, scale}, ones[2] = {1, 1};
  block.clear_sums(parts.count());
  for (int g = 0; g < a.heads / a.key_heads; ++g) {
    block.h = block.kh * (a.heads / a.key_heads) + g;
    block.set_keys(tile);
    if (g == 0) {
      copy_rows(k, block.keys(a.key));
      copy_rows(v, block.keys(a.value));
      cuda::commit_copies();
    }
    for (int first = 0; first < shared.candidates.count; first += kTileSide) {
      unsigned mask;
      if (!block.meet_queries(first, mask)) continue;
      copy_rows(q, block.queries(a.query));
      cuda::commit_copies();
      copy_rows(o, block.queries(a.grad_output));
      cuda::commit_copies();
      cuda::wait_copies<1>();
      __syncthreads();
      Scores c, d;
      Weights probabilities, slopes;
      block.products(c, k, q, key_pieces);
      cuda::wait_copies<0>();
      __syncthreads();
      block.products(d, v, o, value_pieces);
#pragma unroll
      for (int e = 0; e < HalfLayout::kCount; e += 2) {
        float slope[2] = {}, probability[2] = {};
#pragma unroll
        for (int i = e; i < e + 2; ++i) {
          if ((mask >> i & 1) == 0) continue;
          const auto x = block.entry(c[i / 4][i % 4] * scale, d[i / 4][i % 4],
                                     HalfLayout::column(i), HalfLayout::row(i));
          slope[i - e] = x.slope;
          probability[i - e] = x.probability;
        }
        block.pair(slopes, e, slope[0], slope[1]);
        block.pair(probabilities, e, probability[0], probability[1]);
      }
      for (int part = parts.first; part < middle; ++part) {
        block.add(part - parts.first, slopes, q + part * kPieceBytes, ones);
      }
      for (int part = middle; part < parts.last; ++part) {
        block.add(part - parts.first, probabilities, o + (part - key_pieces) * kPieceBytes, ones);
      }
    }
  }
  cuda::wait_copies<0>();
  const auto &dk = a.results[0], &dv = a.results[1];
  block.store(dk, dk.at(block.b, block.kh), shared.key_rows, parts.first, middle - parts.first, 0,
              scales);
  block.store(dv, dv.at(block.b, block.kh), shared.key_rows, middle - key_pieces,
              parts.last - middle, middle - parts.first, ones);
}

}  // namespace tessera::tile
