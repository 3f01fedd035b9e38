// What the forward and the backward kernels of norm_rows_cuda.h share. Only .cu files include this.
#pragma once

#include <algorithm>
#include <initializer_list>

#include "tessera/autograd/ops/norm_rows_cuda.h"
#include "tessera/core/cuda/kernel.h"
#include "tessera/core/cuda/runtime.h"

namespace tessera::detail {

using cuda::Compute;
using cuda::kWarp;

// A weight or bias of dtype T or Compute<T>; an absent one is a constant.
template <class T>
struct Parameter {
  const void* data = nullptr;
  bool wide = false;  // of dtype Compute<T>
  float absent = 0;

  template <int V>
  __device__ void read(int64_t i, Compute<T>* to) const {
    if (data == nullptr) {
#pragma unroll
      for (int e = 0; e < V; ++e) to[e] = absent;
    } else if (wide) {
      const auto v = cuda::load<V>(static_cast<const Compute<T>*>(data) + i);
#pragma unroll
      for (int e = 0; e < V; ++e) to[e] = v[e];
    } else {
      const auto v = cuda::load<V>(static_cast<const T*>(data) + i);
#pragma unroll
      for (int e = 0; e < V; ++e) to[e] = convert<Compute<T>>(v[e]);
    }
  }
};

// Warps per block such that two blocks' registers hold, for E columns per lane, so many arrays of
// sums and parameters and so many rows.
template <class T, int E, bool kVector, int kArrays, int kRows>
constexpr int warps_that_fit() {
  constexpr int kWide = static_cast<int>(sizeof(Compute<T>));
  constexpr int kElement = kVector ? static_cast<int>(sizeof(T)) : kWide;
  constexpr int kRegisters = E * (kArrays * kWide + kRows * kElement) / 4 + 48;
  return std::clamp(1024 / kRegisters, 4, 8);
}

// Threads of a kernel that gives a row to a block, at most. Every thread always meets the same
// columns, so what one pass leaves in shared memory the next may read without a barrier.
constexpr int64_t kBlockThreads = 512;

template <class T>
T* data_or_null(const Tensor& x) {
  return x.defined() ? cuda::data<T>(x) : nullptr;
}

template <class T>
Parameter<T> parameter(const Tensor& x, float absent) {
  if (!x.defined()) return {nullptr, false, absent};
  return {x.raw_data(), x.dtype() == dtype_of<Compute<T>>(), absent};
}

// Whether rows of all tensors can be walked in 16-byte vectors.
inline bool all_aligned(int64_t row_bytes, std::initializer_list<const Tensor*> tensors) {
  for (const Tensor* x : tensors) {
    if (x->defined() && reinterpret_cast<uintptr_t>(x->raw_data()) % 16 != 0) return false;
  }
  return row_bytes % 16 == 0;
}

// Rows of at most so many elements lie in the registers of one warp.
template <class T>
constexpr int kMostPerLane = sizeof(T) == 8 ? 16 : 32;
template <class T>
bool fits_a_warp(int64_t size) {
  return size <= kMostPerLane<T> * int64_t{kWarp};
}

// fn.operator()<E, vector>() with the least E that holds the row.
template <class T, class Fn>
void visit_width(int64_t size, bool vector, const Fn& fn) {
  if constexpr (sizeof(T) < 8) {
    if (vector && size <= 256) return fn.template operator()<8, true>();
    if (vector && size <= 512) return fn.template operator()<16, true>();
    if (vector && size <= 768) return fn.template operator()<24, true>();
  }
  if (vector) return fn.template operator()<kMostPerLane<T>, true>();
  fn.template operator()<kMostPerLane<T>, false>();
}

inline unsigned threads_for_row(int64_t size, int64_t vector_size) {
  const int64_t warps = (size + vector_size * kWarp - 1) / (vector_size * kWarp);
  return static_cast<unsigned>(std::min<int64_t>(kBlockThreads, warps * kWarp));
}

// What a block may take beside its static shared memory.
inline int64_t dynamic_limit(Device device) {
  return static_cast<int64_t>(cuda::shared_limit(device)) - 1024;
}

}  // namespace tessera::detail
