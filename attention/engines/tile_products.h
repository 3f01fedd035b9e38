// Products of 64 × 64 tiles in plain f32 or f64 arithmetic, for the kernels of tile_kernels.h. A
// block has 256 threads in 16 rows (y) of 16 (x); a thread holds 4 × 4 neighbouring elements, rows
// 4y … 4y + 3 and columns 4x … 4x + 3.
#pragma once

#include "tessera/attention/engines/tile_source.h"
#include "tessera/core/cuda/kernel.h"

namespace tessera {

// A (B, H, N, D) tensor with dense rows, of any floating dtype, as the tiles read and write it.
struct TileTensor {
  void* data = nullptr;
  int64_t batch = 0, head = 0, row = 0;  // strides in elements
  int width = 0;
  DType dtype = DType::f32;
  bool vector = false;  // four neighbours can be accessed at once

  TESSERA_HD int64_t at(int b, int h) const { return b * batch + h * head; }
};

namespace tile {

constexpr int kDepth = 16;             // of a step of a product
constexpr int kPitch = kTileSide + 4;  // of a row in shared memory
constexpr unsigned kThreads = 256;

template <class T>
using Quad = cuda::Vector<T, 4>;
template <class T>
using Square = T[4][4];

__device__ inline int lane_x() {
  return static_cast<int>(threadIdx.x) % 16;
}
__device__ inline int lane_y() {
  return static_cast<int>(threadIdx.x) / 16;
}

template <class T, class S>
__device__ Quad<T> read_quad(const void* data, int64_t at, int count, bool vector) {
  const S* p = static_cast<const S*>(data) + at;
  Quad<T> q;
  if (vector) {
    const Quad<S> v = cuda::load<4>(p);
#pragma unroll
    for (int e = 0; e < 4; ++e) q[e] = convert<T>(v[e]);
  } else {
#pragma unroll
    for (int e = 0; e < 4; ++e) q[e] = e < count ? convert<T>(p[e]) : T{0};
  }
  return q;
}

template <class T, class S>
__device__ void write_quad(void* data, int64_t at, int count, bool vector, const Quad<T>& q) {
  S* p = static_cast<S*>(data) + at;
  if (vector) {
    Quad<S> v;
#pragma unroll
    for (int e = 0; e < 4; ++e) v[e] = convert<S>(q[e]);
    cuda::store(p, v);
  } else {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      if (e < count) p[e] = convert<S>(q[e]);
    }
  }
}

// Four columns from `column` on of the row at element `at`; zeros beyond the width.
template <class T>
__device__ Quad<T> load_quad(const TileTensor& x, int64_t at, int column) {
  const int count = x.width - column;
  if (count <= 0) return Quad<T>{};
  at += column;
  if constexpr (sizeof(T) == 8) {
    return read_quad<T, double>(x.data, at, count, x.vector);
  } else {
    if (x.dtype == DType::f32) return read_quad<T, float>(x.data, at, count, x.vector);
    if (x.dtype == DType::bf16) return read_quad<T, bfloat16>(x.data, at, count, x.vector);
    return read_quad<T, float16>(x.data, at, count, x.vector);
  }
}

template <class T>
__device__ void store_quad(const TileTensor& x, int64_t at, int column, const Quad<T>& q) {
  const int count = x.width - column;
  if (count <= 0) return;
  at += column;
  if constexpr (sizeof(T) == 8) {
    write_quad<T, double>(x.data, at, count, x.vector, q);
  } else {
    if (x.dtype == DType::f32) return write_quad<T, float>(x.data, at, count, x.vector, q);
    if (x.dtype == DType::bf16) return write_quad<T, bfloat16>(x.data, at, count, x.vector, q);
    write_quad<T, float16>(x.data, at, count, x.vector, q);
  }
}

// Some rows of a head; `rows` in shared memory, −1 for a row of zeros.
struct Operand {
  const TileTensor& x;
  int64_t base;
  const int* rows;

  template <class T>
  __device__ Quad<T> quad(int r, int column) const {
    const int row = rows[r];
    return row < 0 ? Quad<T>{} : load_quad<T>(x, base + row * x.row, column);
  }
};

// Steps of the operands, in two buffers by turns: one barrier a step is enough. `turn` is the same
// in all threads.
template <class T>
struct alignas(16) Stage {
  T left[2][kDepth][kPitch];
  T right[2][kDepth][kPitch];
  T weights[kTileSide][kPitch];  // [column][row] of a tile
};

template <class T>
__device__ void clear(Square<T>& c) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) c[i][j] = 0;
  }
}

template <class T>
__device__ void add_outer(Square<T>& c, const Quad<T>& left, const Quad<T>& right) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) c[i][j] += left[i] * right[j];
  }
}

template <class T>
__device__ void stage_rows(T (&to)[kDepth][kPitch], const Quad<T>& q) {
#pragma unroll
  for (int e = 0; e < 4; ++e) to[threadIdx.x % 4 * 4 + e][threadIdx.x / 4] = q[e];
}

// c = a bᵀ. A barrier stands behind everything that threads did before.
template <class T>
__device__ void products(Square<T>& c, const Operand& a, const Operand& b, Stage<T>& s, int& turn) {
  const int row = threadIdx.x / 4, column = threadIdx.x % 4 * 4;
  Quad<T> left = a.template quad<T>(row, column), right = b.template quad<T>(row, column);
  clear(c);
  int begin = 0;
  do {
    stage_rows(s.left[turn], left);
    stage_rows(s.right[turn], right);
    __syncthreads();
    begin += kDepth;
    if (begin < a.x.width) {
      left = a.template quad<T>(row, begin + column);
      right = b.template quad<T>(row, begin + column);
    }
#pragma unroll
    for (int d = 0; d < kDepth; ++d) {
      add_outer(c, cuda::load<4>(&s.left[turn][d][4 * lane_y()]),
                cuda::load<4>(&s.right[turn][d][4 * lane_x()]));
    }
    turn ^= 1;
  } while (begin < a.x.width);
}

// c = weights · x[:, column … column + 63], the rows of x being the columns of the weights. A
// barrier stands between what threads wrote to the weights before and their use.
template <class T>
__device__ void weighted_rows(Square<T>& c, const Operand& x, int column, Stage<T>& s, int& turn) {
  const int row = threadIdx.x / 16, own = column + threadIdx.x % 16 * 4;
  Quad<T> right = x.template quad<T>(row, own);
  clear(c);
#pragma unroll 1
  for (int begin = 0; begin < kTileSide; begin += kDepth) {
    cuda::store(&s.right[turn][row][threadIdx.x % 16 * 4], right);
    __syncthreads();
    if (begin + kDepth < kTileSide) right = x.template quad<T>(begin + kDepth + row, own);
#pragma unroll
    for (int d = 0; d < kDepth; ++d) {
      add_outer(c, cuda::load<4>(&s.weights[begin + d][4 * lane_y()]),
                cuda::load<4>(&s.right[turn][d][4 * lane_x()]));
    }
    turn ^= 1;
  }
}

// One value per element to the weights, given as value(i, j) of the thread's elements.
template <class T, class Fn>
__device__ void set_weights(Stage<T>& s, const Fn& value) {
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    Quad<T> q;
#pragma unroll
    for (int i = 0; i < 4; ++i) q[i] = value(i, j);
    cuda::store(&s.weights[4 * lane_x() + j][4 * lane_y()], q);
  }
}

}  // namespace tile

}  // namespace tessera
