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

// Copies rows of one head into tiles of kRows × kWidth, zeros beyond its ends; all kThreads take
// part, each always with the same chunk of rows kStep apart.
template <class T, int kRows, int kWidth, int kThreads>
struct TileCopy {
  static constexpr int kChunks = kWidth / 8;
  static constexpr int kStep = kThreads / kChunks;

  const T* from;   // this thread's piece of row 0
  int64_t stride;  // between rows
  int row, chunk;  // this thread's first piece in a tile
  bool inside;     // it lies within the width

  __device__ TileCopy(const T* data, int64_t row_stride, int width, int thread)
      : stride(row_stride),
        row(thread / kChunks),
        chunk(thread % kChunks),
        inside(chunk * 8 < width) {
    from = data + row * stride + (inside ? chunk * 8 : 0);
  }
  // Rows [begin, begin + kRows) of a head that has `count` of them.
  __device__ void operator()(unsigned tile, int begin, int count) const {
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

// What a block works on. Blocks are started in the order of their numbers: section after section of
// heads, whose tensors the L2 cache holds together; inside a section first tile 0 of every head,
// then tile 1 …, so that tile 0 should be the one with most work.
struct Task {
  int tile, head;  // over the batch
};
__device__ inline Task task_of(int block, int tiles, int heads, int section) {
  const int first = block / (section * tiles) * section;
  const int inside = block - first * tiles;
  const int here = min(section, heads - first);
  return {inside / here, first + inside % here};
}
// Sections of equal size, of at most `cached` bytes if that is possible: in a cache of 40 MiB or
// more two are under way at a time.
inline int section_of(int64_t bytes_per_head, int heads, int64_t cached = 16 << 20) {
  if (heads == 0) return 1;
  const int64_t sections = (bytes_per_head * heads + cached - 1) / cached;
  const int64_t most = std::clamp<int64_t>(sections, 1, heads);
  return static_cast<int>((heads + most - 1) / most);
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
