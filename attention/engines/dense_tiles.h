// Tiles of half-precision rows in shared memory, for tensor cores. Rows follow one another; the
// 16-byte chunks of a row are permuted, chunk c of row r lying at c xor (r mod 8), so that both
// eight rows of a chunk and a row's chunks are read without bank conflicts. Tiles begin at
// multiples of 1024 bytes.
#pragma once

#include "tessera/attention/engines/dense_kernels.h"
#include "tessera/attention/engines/mma.h"

namespace tessera::dense {

constexpr float kLog2e = 1.4426950408889634f;

template <int kRows, int kWidth>
constexpr unsigned kTileBytes = kRows* kWidth * 2;

template <int kWidth>
__device__ inline unsigned chunk_offset(int row, int chunk) {
  return static_cast<unsigned>(row * kWidth * 2 + ((chunk ^ (row & 7)) << 4));
}

// Where a lane's addresses for ldmatrix begin. Column steps of 16 elements are `xor kk · 32`, row
// steps of 16 rows are `+ 16 · kWidth · 2`.
struct Lane {
  unsigned wide;  // matrices: rows 0–7, rows 8–15 of chunk 0, then both of chunk 1
  unsigned tall;  // matrices: chunk 0, chunk 1 of rows 0–7, then both of rows 8–15
};
template <int kWidth>
__device__ inline Lane lane_offsets() {
  const int lane = static_cast<int>(threadIdx.x % cuda::kWarp);
  return {chunk_offset<kWidth>(lane % 16, lane / 16),
          chunk_offset<kWidth>(lane / 16 * 8 + lane % 8, lane / 8 % 2)};
}

// Copies rows of one head into tiles of kRows × kWidth, zeros beyond its ends; all kThreads take
// part, each always with the same chunk of rows kStep apart.
template <class T, int kRows, int kWidth, int kThreads>
struct TileCopy {
  static constexpr int kChunks = kWidth / 8;
  static constexpr int kStep = kThreads / kChunks;

  const T* from;   // this thread's piece of row 0
  int64_t stride;  // between rows
  int row;         // this thread's first row in a tile
  bool inside;     // its chunk lies within the width

  __device__ TileCopy(const T* data, int64_t row_stride, int width) : stride(row_stride) {
    row = static_cast<int>(threadIdx.x) / kChunks;
    const int chunk = static_cast<int>(threadIdx.x) % kChunks;
    inside = chunk * 8 < width;
    from = data + row * stride + (inside ? chunk * 8 : 0);
  }
  // Rows [begin, begin + kRows) of a head that has `count` of them.
  __device__ void operator()(unsigned tile, int begin, int count) const {
    const int chunk = static_cast<int>(threadIdx.x) % kChunks;
    const T* source = from + begin * stride;
    if (begin + kRows <= count) {
#pragma unroll
      for (int i = 0; i < kRows / kStep; ++i) {
        cuda::copy_async(tile + chunk_offset<kWidth>(row + i * kStep, chunk), source, inside);
        source += kStep * stride;
      }
    } else {
#pragma unroll
      for (int i = 0; i < kRows / kStep; ++i) {
        const bool there = inside && begin + row + i * kStep < count;
        cuda::copy_async(tile + chunk_offset<kWidth>(row + i * kStep, chunk), there ? source : from,
                         there);
        source += kStep * stride;
      }
    }
  }
};

template <int kTiles>
__device__ inline void clear(cuda::Accumulator (&c)[kTiles]) {
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
#pragma unroll
    for (int e = 0; e < 4; ++e) c[i][e] = 0;
  }
}

// Two neighbouring 16 × 8 accumulators as the left operand of a step over those 16 columns.
template <class T>
__device__ inline void pack_left(unsigned (&a)[4], const cuda::Accumulator& left,
                                 const cuda::Accumulator& right) {
  a[0] = cuda::pack<T>(left[0], left[1]);
  a[1] = cuda::pack<T>(left[2], left[3]);
  a[2] = cuda::pack<T>(right[0], right[1]);
  a[3] = cuda::pack<T>(right[2], right[3]);
}

// Writes a warp's 16 × kWidth accumulators, rows 0–7 times `upper` and rows 8–15 times `lower`
// (both a lane's own), to rows `begin` … of a head of `count` rows, through 16 tile rows that no
// other warp uses.
template <class T, int kWidth>
__device__ inline void store_rows(cuda::Accumulator (&c)[kWidth / 8], float upper, float lower,
                                  char* staging, T* to, int64_t stride, int begin, int count,
                                  int width) {
  const int lane = static_cast<int>(threadIdx.x % cuda::kWarp);
  __syncwarp();
#pragma unroll
  for (int n = 0; n < kWidth / 8; ++n) {
    char* at = staging + chunk_offset<kWidth>(lane / 4, n) + lane % 4 * 4;
    *reinterpret_cast<unsigned*>(at) = cuda::pack<T>(c[n][0] * upper, c[n][1] * upper);
    *reinterpret_cast<unsigned*>(at + 8 * kWidth * 2) =
        cuda::pack<T>(c[n][2] * lower, c[n][3] * lower);
  }
  __syncwarp();
  constexpr int kChunks = kWidth / 8;
#pragma unroll
  for (int i = 0; i < 16 * kChunks; i += cuda::kWarp) {
    const int row = (i + lane) / kChunks, chunk = (i + lane) % kChunks;
    if (begin + row < count && chunk * 8 < width) {
      cuda::store(
          to + (begin + row) * stride + chunk * 8,
          cuda::load<8>(reinterpret_cast<const T*>(staging + chunk_offset<kWidth>(row, chunk))));
    }
  }
  __syncwarp();
}

}  // namespace tessera::dense
