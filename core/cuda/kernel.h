// Device code that kernels share: indices, 16-byte accesses, reductions over warps and blocks.
// Only .cu files, and .cpp files compiled as CUDA, include this.
#pragma once

#include <cstdint>
#include <cstdio>

#include "tessera/core/dtype.h"

namespace tessera::cuda {

constexpr unsigned kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

__device__ inline int64_t thread_index() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ inline int64_t thread_count() {
  return static_cast<int64_t>(gridDim.x) * blockDim.x;
}

// An index that came as data, in [0, size): any other stops the program, as nothing can be thrown.
__device__ inline int64_t checked_index(const char* op, int64_t index, int64_t size) {
  if (index < 0 || index >= size) {
    printf("%s: index %lld is not in [0, %lld)\n", op, static_cast<long long>(index),
           static_cast<long long>(size));
    __trap();
  }
  return index;
}

// N elements that are read and written in one access (or in several of 16 bytes); the address must
// be a multiple of the smaller of 16 bytes and the size.
template <class T, int N>
struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Vector {
  T element[N];
  __device__ T& operator[](int i) { return element[i]; }
  __device__ const T& operator[](int i) const { return element[i]; }
};
template <class T>
constexpr int kVectorSize = 16 / sizeof(T);

template <int N, class T>
__device__ Vector<T, N> load(const T* address) {
  return *reinterpret_cast<const Vector<T, N>*>(address);
}
template <int N, class T>
__device__ void store(T* address, const Vector<T, N>& values) {
  *reinterpret_cast<Vector<T, N>*>(address) = values;
}
// Whether rows of `stride` elements from `pointer` on can be read in vectors of `bytes`.
template <class T>
inline bool is_aligned(const T* pointer, int64_t stride, size_t bytes = 16) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0 &&
         static_cast<uint64_t>(stride) * sizeof(T) % bytes == 0;
}

// Combinations over the lanes of a warp and the threads of a block; every thread gets the result.
// The order of combination is fixed.
struct Sum {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Max {  // passes NaN on
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a > b || a != a ? a : b;
  }
};

template <class T, class Op>
__device__ T warp_reduce(T x, Op op) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) x = op(x, __shfl_xor_sync(kAllLanes, x, step));
  return x;
}

// `scratch`: shared memory of one T per warp. `identity` fills warps that are not there. The block
// may be entered again at once: a barrier stands before the first write.
template <class T, class Op>
__device__ T block_reduce(T x, Op op, T identity, T* scratch) {
  const unsigned lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const unsigned warps = (blockDim.x + kWarp - 1) / kWarp;
  x = warp_reduce(x, op);
  if (warps == 1) return x;
  __syncthreads();
  if (lane == 0) scratch[warp] = x;
  __syncthreads();
  return warp_reduce(lane < warps ? scratch[lane] : identity, op);
}

}  // namespace tessera::cuda
