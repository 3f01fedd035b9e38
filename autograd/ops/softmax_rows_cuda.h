// Rows of scores on a device: a warp holds a short row, a block a long one. Shared by softmax and
// the cross-entropies; only .cu files include this.
#pragma once

#include "tessera/core/cuda/kernel.h"
#include "tessera/core/cuda/runtime.h"
#include "tessera/core/math.h"

namespace tessera::cuda {

// Blocks of (threads of a row, rows). `cached`: a row of `row_bytes` fits into shared memory, where
// each thread keeps what it has read for its second look.
struct RowLaunch {
  dim3 grid;
  dim3 block;
  size_t shared = 0;
  bool cached = false;
};
inline RowLaunch row_launch(Device device, int64_t rows, int64_t n, size_t row_bytes) {
  constexpr int64_t kWarpRow = 1024;  // short enough for the second look to find it in L1
  if (n <= kWarpRow) {
    return {dim3(static_cast<unsigned>((rows + 7) / 8)), dim3(kWarp, 8), 0, false};
  }
  const bool cached = row_bytes + 1024 <= shared_limit(device);
  return {dim3(static_cast<unsigned>(rows)), dim3(n <= 8192 ? 256 : 512), cached ? row_bytes : 0,
          cached};
}
__device__ inline int64_t row_of_thread() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
}

// The halves round their results to 8 or 11 bits: the instruction alone is good enough for them.
template <class T>
__device__ Compute<T> exponential(Compute<T> x) {
  if constexpr (sizeof(T) == 2) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x * 1.4426950408889634f));
    return y;
  } else {
    return ::exp(x);
  }
}

// shift: the maximum of a row, or 0 for a row of −∞; total: Σ exp(x − shift).
template <class C>
struct Exponentials {
  C shift;
  C total;
};

// fn(i, piece) for the pieces of V elements of a row that are this thread's; several loads are in
// flight.
template <class T, int V, class Fn>
__device__ void for_each_piece(const T* x, int64_t n, const Fn& fn) {
  constexpr int kUnroll = 4;
  const int64_t step = static_cast<int64_t>(blockDim.x) * V;
  for (int64_t i = static_cast<int64_t>(threadIdx.x) * V; i < n; i += kUnroll * step) {
    Vector<T, V> piece[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (i + u * step < n) piece[u] = load<V>(x + i + u * step);
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (i + u * step < n) fn(i + u * step, piece[u]);
    }
  }
}

// Maximum and sum in one walk: what has been added is rescaled when the maximum grows. `keep` sees
// every piece. `scratch`: one C per warp.
template <class T, int V, class Keep>
__device__ Exponentials<Compute<T>> row_exponentials(const T* x, int64_t n, Compute<T>* scratch,
                                                     const Keep& keep) {
  using C = Compute<T>;
  const C lowest = -math::detail::kInfinity<C>;
  C top = lowest, shift = 0, total = 0;
  for_each_piece<T, V>(x, n, [&](int64_t i, const Vector<T, V>& piece) {
    keep(i, piece);
    C highest = lowest;
#pragma unroll
    for (int k = 0; k < V; ++k) {
      const C value = convert<C>(piece[k]);
      highest = value > highest ? value : highest;
    }
    if (highest > top) {
      total *= exponential<T>(top - highest);
      shift = top = highest;
    }
#pragma unroll
    for (int k = 0; k < V; ++k) total += exponential<T>(convert<C>(piece[k]) - shift);
  });
  const C highest = block_reduce(top, Max{}, lowest, scratch);
  const C common = highest == lowest ? C(0) : highest;
  total *= exponential<T>(top - common);
  return {common, block_reduce(total, Sum{}, C(0), scratch)};
}

// fn.template operator()<V>() with the widest vectors in which all rows of n elements can be read.
template <class T, class Fn>
void visit_width(int64_t n, std::initializer_list<const void*> rows, const Fn& fn) {
  bool wide = n % kVectorSize<T> == 0;
  for (const void* row : rows) wide = wide && reinterpret_cast<uintptr_t>(row) % 16 == 0;
  if (wide) {
    fn.template operator()<kVectorSize<T>>();
  } else {
    fn.template operator()<1>();
  }
}

}  // namespace tessera::cuda
