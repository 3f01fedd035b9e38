// Gradients of the tables of a score, tile by tile, the same bits on every run: all entries of a
// tile that read one entry of a table are added in a fixed order, by plain additions to a table
// that one block owns.
#pragma once

#include "tessera/attention/engines/tile_products.h"

namespace tessera::tile {

// Rows or columns if no two of them share an entry of the table.
enum class Lines : uint8_t { rows, columns, diagonals };

// The entries of a tile with what they give to a table. Lines through the tile are walked by one
// thread each, which adds up neighbours of one index: for a table of distances there is one sum a
// diagonal.
template <class T>
struct Cells {
  static constexpr int kRow = kTileSide + 1;

  T (*value)[kRow];
  int (*index)[kRow];
  int* sums;  // of each line
  int* most;
  Lines direction;

  static constexpr int kLines = 2 * kTileSide;
  __device__ bool apart() const { return direction != Lines::diagonals; }
  __device__ int lines() const { return apart() ? kTileSide : kLines - 1; }
  __device__ int length(int line) const {
    if (line >= lines()) return 0;
    return apart() ? kTileSide : kTileSide - abs(line - (kTileSide - 1));
  }
  __device__ int row(int line, int t) const {
    if (direction == Lines::rows) return line;
    return direction == Lines::columns ? t : max(0, kTileSide - 1 - line) + t;
  }
  __device__ int column(int line, int t) const {
    if (direction == Lines::rows) return t;
    return direction == Lines::columns ? line : max(0, line - (kTileSide - 1)) + t;
  }
  __device__ T& value_at(int line, int t) const { return value[row(line, t)][column(line, t)]; }
  __device__ int& index_at(int line, int t) const { return index[row(line, t)][column(line, t)]; }
};

// The sums of neighbours of one index move to the front of their line.
template <class T>
__device__ int sum_neighbours(const Cells<T>& c, int line) {
  int count = 0, last = -1;
  T sum = 0;
  for (int t = 0; t < c.length(line); ++t) {
    const int index = c.index_at(line, t);
    if (index < 0) continue;
    const T value = c.value_at(line, t);
    if (index == last) {
      sum += value;
      continue;
    }
    if (last >= 0) {
      c.index_at(line, count) = last;
      c.value_at(line, count++) = sum;
    }
    last = index;
    sum = value;
  }
  if (last >= 0) {
    c.index_at(line, count) = last;
    c.value_at(line, count++) = sum;
  }
  return count;
}

// One warp: the n-th sums of all lines, 32 at a time; of those with one index the first lane adds
// all, in order.
template <class T>
__device__ void add_sums(const Cells<T>& c, T* table) {
  const int lane = static_cast<int>(threadIdx.x % cuda::kWarp);
  for (int n = 0; n < *c.most; ++n) {
    for (int first = 0; first < c.lines(); first += cuda::kWarp) {
      const int line = first + lane;
      const bool here = n < c.sums[line];
      const int index = here ? c.index_at(line, n) : -1;
      const unsigned peers = __match_any_sync(cuda::kAllLanes, index);
      if (here && __ffs(peers) - 1 == lane) {
        T sum = c.value_at(line, n);
        for (unsigned rest = peers & (peers - 1); rest != 0; rest &= rest - 1) {
          sum += c.value_at(first + __ffs(rest) - 1, n);
        }
        table[index] += sum;
      }
      __syncwarp();
    }
  }
}

// Adds the cells of a tile to the table; all threads, between barriers.
template <class T>
__device__ void add_cells(const Cells<T>& c, T* table) {
  if (threadIdx.x == 0) *c.most = 0;
  __syncthreads();
  const int line = static_cast<int>(threadIdx.x);
  if (line < Cells<T>::kLines) {
    const int count = sum_neighbours(c, line);
    if (c.apart()) {
      for (int n = 0; n < count; ++n) table[c.index_at(line, n)] += c.value_at(line, n);
    } else {
      c.sums[line] = count;
      atomicMax(c.most, count);
    }
  }
  __syncthreads();
  if (!c.apart() && threadIdx.x < cuda::kWarp) add_sums(c, table);
  __syncthreads();
}

}  // namespace tessera::tile
