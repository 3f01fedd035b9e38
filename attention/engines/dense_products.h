// Products of the backward kernels: scores of a warp's own rows against 16 rows of the other side,
// and sums weighted by them.
#pragma once

#include "tessera/attention/engines/dense_tiles.h"

namespace tessera::dense {

// Left operands of a warp's own rows: kept in registers, or read from their tile each time.
template <int kRowTiles, int kWidth, bool kKept>
struct OwnRows {
  static constexpr unsigned kRowStep = 16 * kWidth * 2;
  unsigned kept[kKept ? kWidth / 16 : 1][kRowTiles][4];
  unsigned address;

  // `rows`: the warp's first row in a tile, offset for the lane.
  __device__ explicit OwnRows(unsigned rows) : address(rows) {
    if constexpr (kKept) {
#pragma unroll
      for (int kk = 0; kk < kWidth / 16; ++kk) read(kept[kk], kk);
    }
  }
  __device__ void operator()(unsigned (&to)[kRowTiles][4], int kk) const {
    if constexpr (kKept) {
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
        for (int i = 0; i < 4; ++i) to[m][i] = kept[kk][m][i];
      }
    } else {
      read(to, kk);
    }
  }

 private:
  __device__ void read(unsigned (&to)[kRowTiles][4], int kk) const {
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
      load_left(to[m], (address ^ (kk * 32)) + m * kRowStep);
    }
  }
};

// c = own rows · (16 rows at `others` + `offset`)ᵀ, over the whole width. Tiles that lie a constant
// offset from one another share the addresses at which `others` is read.
template <class T, int kRowTiles, int kWidth, bool kKept>
__device__ inline void products(cuda::Accumulator (&c)[kRowTiles][2],
                                const OwnRows<kRowTiles, kWidth, kKept>& own, unsigned others,
                                unsigned offset) {
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) clear(c[m]);
#pragma unroll
  for (int kk = 0; kk < kWidth / 16; ++kk) {
    unsigned left[kRowTiles][4], right[4];
    own(left, kk);
    cuda::load_matrices(right, (others ^ (kk * 32)) + offset);
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
      cuda::mma<T>(c[m][0], left[m], right[0], right[1]);
      cuda::mma<T>(c[m][1], left[m], right[2], right[3]);
    }
  }
}

// sum += weights · (16 rows at `others` + `offset`).
template <class T, int kWidth, int kRowTiles>
__device__ inline void add_weighted(cuda::Accumulator (&sum)[kRowTiles][kWidth / 8],
                                    const cuda::Accumulator (&weights)[kRowTiles][2],
                                    unsigned others, unsigned offset) {
  unsigned left[kRowTiles][4];
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) pack_left<T>(left[m], weights[m][0], weights[m][1]);
#pragma unroll
  for (int n = 0; n < kWidth / 16; ++n) {
    unsigned right[4];
    cuda::load_transposed(right, (others ^ (n * 32)) + offset);
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
      cuda::mma<T>(sum[m][2 * n], left[m], right[0], right[2]);
      cuda::mma<T>(sum[m][2 * n + 1], left[m], right[1], right[3]);
    }
  }
}

}  // namespace tessera::dense
