// Tiles of half-precision rows in shared memory, for tensor cores. Rows follow one another; the
// 16-byte chunks of a row are permuted, chunk c of row r lying at c xor (r mod 8), so that both
// eight rows of a chunk and a row's chunks are read without bank conflicts. Tiles begin at
// multiples of 1024 bytes.
#pragma once

#include "tessera/attention/engines/mma.h"

namespace tessera::dense {

constexpr float kLog2e = 1.4426950408889634f;

template <int kRows, int kWidth>
constexpr unsigned kTileBytes = kRows* kWidth * 2;

template <int kWidth>
__device__ inline unsigned chunk_offset(int row, int chunk) {
  return static_cast<unsigned>(row * kWidth * 2 + ((chunk ^ (row & 7)) << 4));
}

// Where a lane's addresses for ldmatrix begin in a tile, for 16 rows by 16 columns: matrices are
// chunks 0 and 1 of rows 0–7, then of rows 8–15. The next 16 columns are at `xor 32`, the next rows
// at `+ 16 · kWidth · 2`. The order serves every operand:
//   right operand whose columns are the tile's rows    b of rows 0–7 is r0, r1; of rows 8–15 r2, r3
//   right operand whose rows are the tile's rows       transposed: b of chunk 0 is r0, r2; of 1 r1,
//   r3 left operand                                       r0, r2, r1, r3: load_left
template <int kWidth>
__device__ inline unsigned lane_offset() {
  const int lane = static_cast<int>(threadIdx.x % cuda::kWarp);
  return chunk_offset<kWidth>(lane / 16 * 8 + lane % 8, lane / 8 % 2);
}

__device__ inline void load_left(unsigned (&a)[4], unsigned address) {
  unsigned r[4];
  cuda::load_matrices(r, address);
  a[0] = r[0];
  a[1] = r[2];
  a[2] = r[1];
  a[3] = r[3];
}

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

}  // namespace tessera::dense
