// Pieces of the linear engine's kernels for halves: decays of a chunk, weights of a tile of
// products, and what warps do with rows of results and states in their registers.
#pragma once

#include "tessera/attention/engines/dense_tiles.h"
#include "tessera/attention/engines/linear_kernels.h"
#include "tessera/attention/engines/unpack.h"

namespace tessera::linear_engine {

constexpr int kTokens = kHalvesChunk;
constexpr int kColumns = 64;  // of the values, per block
constexpr int kWarps = 4;
constexpr unsigned kThreads = kWarps * 32;

// Where a lane's addresses begin for 16 rows by 16 columns: of matrices in the order of a left
// operand, which is that of two right operands when they are transposed.
template <int kColumnsOf>
__device__ inline unsigned operand_offset() {
  const int lane = static_cast<int>(threadIdx.x % cuda::kWarp);
  return dense::chunk_offset<kColumnsOf>(lane % 16, lane / 16);
}

// Of a chunk, by one warp. A pair i, j that is seen has the weight 2^(exponent[i] − exponent[j]).
struct Decays {
  float exponent[kTokens];  // G in powers of 2, backward −G
  float of_key[kTokens];    // b, a factor
  float of_all;             // a factor
  float log_all;
  float unused[2];
};

// Reads the log-decays of one chunk after another, always one chunk ahead.
class DecayReader {
 public:
  __device__ DecayReader(const float* log_decay, bool per_token)
      : from_(log_decay), per_token_(per_token) {}

  __device__ void read(int begin, int end) {
    const int t = begin + 2 * static_cast<int>(threadIdx.x % cuda::kWarp);
    next_[0] = value(t, end);
    next_[1] = value(t + 1, end);
  }

  // Of the chunk that was read last; `later` is log₂ of what is between it and the state.
  __device__ void write(Decays& to, bool backward, float scale, float later) const {
    const int lane = static_cast<int>(threadIdx.x % cuda::kWarp);
    float sum = next_[0] + next_[1];
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const float before = __shfl_up_sync(cuda::kAllLanes, sum, step);
      if (lane >= step) sum += before;
    }
    const float total = __shfl_sync(cuda::kAllLanes, sum, 31);
    const float sums[2] = {sum - next_[1], sum};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int t = 2 * lane + i;
      to.exponent[t] = backward ? -sums[i] : sums[i];
      to.of_key[t] = scale * cuda::exp2_fast(later + (backward ? sums[i] : total - sums[i]));
    }
    if (lane == 0) {
      to.of_all = cuda::exp2_fast(total);
      to.log_all = total;
    }
  }

 private:
  __device__ float value(int t, int end) const {
    if (from_ == nullptr || t >= end) return 0;
    return dense::kLog2e * (per_token_ ? from_[t] : from_[0]);
  }

  const float* from_;
  bool per_token_;
  float next_[2];
};

// Two halves times two factors.
template <class T>
__device__ inline unsigned scaled(unsigned x, float low, float high) {
  const float2 f = cuda::unpack<T>(x);
  return cuda::pack<T>(f.x * low, f.y * high);
}

// The products of 16 queries and 16 keys times their decays, as a left operand. `own`: exponents of
// the lane's two rows, `others`: of the keys.
template <class T>
__device__ inline void weigh(unsigned (&w)[4], cuda::Accumulator (&s)[2], const float (&own)[2],
                             const float* others, float scale, bool diagonal, bool backward) {
  const int lane = static_cast<int>(threadIdx.x % cuda::kWarp);
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    const float2 other = *reinterpret_cast<const float2*>(others + 8 * n + lane % 4 * 2);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const float apart = own[e / 2] - (e % 2 == 0 ? other.x : other.y);
      s[n][e] *= scale * cuda::exp2_fast(apart);
    }
  }
  if (diagonal) {
    const int ahead = lane / 4 - lane % 4 * 2;  // of the first key
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int behind = ahead + e / 2 * 8 - 8 * n - e % 2;
        if (backward ? behind > 0 : behind < 0) s[n][e] = 0;
      }
    }
  }
  dense::pack_left<T>(w, s[0], s[1]);
}

// ⟨row, partner row⟩ of a lane's two rows of 64 columns, of which `columns` exist.
template <class T>
__device__ inline void store_dots(const cuda::Accumulator (&o)[kColumns / 8], const T* partner,
                                  int64_t stride, int columns, int row, int count, float* dots) {
  const int lane = static_cast<int>(threadIdx.x % 4);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int t = row + 8 * r;
    float dot = 0;
    if (t < count) {
#pragma unroll
      for (int n = 0; n < kColumns / 8; ++n) {
        const int c = 8 * n + 2 * lane;
        if (c >= columns) continue;
        const auto other = cuda::load<2>(partner + t * stride + c);
        dot += o[n][2 * r] * convert<float>(other[0]) + o[n][2 * r + 1] * convert<float>(other[1]);
      }
    }
    dot += __shfl_xor_sync(cuda::kAllLanes, dot, 1);
    dot += __shfl_xor_sync(cuda::kAllLanes, dot, 2);
    if (lane == 0 && t < count) dots[t] = dot;
  }
}

// Rows in f32, straight from the lanes.
__device__ inline void store_wide(const cuda::Accumulator (&o)[kColumns / 8], float* to,
                                  int64_t stride, int columns, int row, int count) {
#pragma unroll
  for (int n = 0; n < kColumns / 8; ++n) {
    const int c = 8 * n + 2 * static_cast<int>(threadIdx.x % 4);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if (row + 8 * r >= count || c >= columns) continue;
      *reinterpret_cast<float2*>(to + (row + 8 * r) * stride + c) =
          float2{o[n][2 * r], o[n][2 * r + 1]};
    }
  }
}

// A warp's state in halves, to memory in the order of its lanes, and its product with another.
template <class T, int kStrips>
__device__ inline void keep_states(unsigned* to,
                                   const cuda::Accumulator (&state)[kStrips][kColumns / 8],
                                   int thread) {
#pragma unroll
  for (int m = 0; m < kStrips; ++m) {
#pragma unroll
    for (int n = 0; n < kColumns / 8; n += 2) {
      cuda::Vector<unsigned, 4> x;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const cuda::Accumulator& from = state[m][n + i / 2];
        x[i] = cuda::pack<T>(from[i % 2 * 2], from[i % 2 * 2 + 1]);
      }
      cuda::store(to + ((m * (kColumns / 16) + n / 2) * kThreads + thread) * 4, x);
    }
  }
}
template <class T, int kStrips>
__device__ inline float meet_states(const cuda::Accumulator (&state)[kStrips][kColumns / 8],
                                    const unsigned* kept, int thread) {
  float sum = 0;
#pragma unroll
  for (int m = 0; m < kStrips; ++m) {
#pragma unroll
    for (int n = 0; n < kColumns / 8; n += 2) {
      const auto x = cuda::load<4>(kept + ((m * (kColumns / 16) + n / 2) * kThreads + thread) * 4);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const cuda::Accumulator& own = state[m][n + i / 2];
        const float2 other = cuda::unpack<T>(x[i]);
        sum += own[i % 2 * 2] * other.x + own[i % 2 * 2 + 1] * other.y;
      }
    }
  }
  return cuda::warp_reduce(sum, cuda::Sum());
}

}  // namespace tessera::linear_engine
