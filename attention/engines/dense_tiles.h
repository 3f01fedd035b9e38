// What the kernels of dense attention on tensor cores share: copies of rows into tiles, the order
// of blocks, results on their way out.
#pragma once

#include "tessera/attention/engines/dense_kernels.h"
#include "tessera/attention/engines/half_tiles.h"

namespace tessera::dense {

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

// The tasks of a block: all blocks together take them in turns, forth and back, so that the last of
// a round gets the longest of the next. A grid of as many blocks as the device runs at once lets a
// block fetch for a task while it finishes another, which is good for tasks of like length; with a
// block for each task the device hands out the next when one ends.
template <class Work>
__device__ inline void for_dealt(int count, const Work& work) {
  const int blocks = static_cast<int>(gridDim.x), own = static_cast<int>(blockIdx.x);
#pragma unroll 1
  for (int round = 0; round * blocks < count; ++round) {
    const int number = round * blocks + (round % 2 == 0 ? own : blocks - 1 - own);
    if (number < count) work(number);
  }
}
inline unsigned dealt_grid(int64_t tasks, Device device, bool dealt) {
  const unsigned blocks = grid_of(tasks);
  return dealt ? std::min(blocks, static_cast<unsigned>(cuda::multiprocessors(device))) : blocks;
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
