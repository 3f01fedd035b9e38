// The CUDA side of pointwise.h: one kernel per functor and compute type. Files that define functors
// are compiled as CUDA when the build has it.
#pragma once

#include "tessera/core/tensor.h"

#ifdef __CUDACC__
#include "tessera/core/cuda/kernel.h"
#include "tessera/core/cuda/runtime.h"
#include "tessera/core/cuda/strided.h"
#endif

namespace tessera::detail {

// Runs a functor (behind `functor`) over the inputs on their device, into `out`.
using DeviceFn = void (*)(const void* functor, std::string_view name, const Tensor& out,
                          const Tensor* const* inputs);

#ifdef __CUDACC__

// Elements per thread: 16 bytes of a half, two accesses of an f32.
template <class T>
constexpr int kPointwiseWidth = sizeof(T) == 4 ? 8 : 4;
constexpr unsigned kPointwiseThreads = 256;

// Integers and, in kernels of the other width, floats: rare enough not to be inlined.
template <class T>
__device__ __noinline__ T load_any(const void* data, DType dtype, int64_t i) {
  switch (dtype) {
    case DType::f32:
      return convert<T>(static_cast<const float*>(data)[i]);
    case DType::f64:
      return convert<T>(static_cast<const double*>(data)[i]);
    case DType::bf16:
      return convert<T>(static_cast<const bfloat16*>(data)[i]);
    case DType::f16:
      return convert<T>(static_cast<const float16*>(data)[i]);
    case DType::i64:
      return convert<T>(static_cast<const int64_t*>(data)[i]);
    case DType::i32:
      return convert<T>(static_cast<const int32_t*>(data)[i]);
    case DType::u8:
      return convert<T>(static_cast<const uint8_t*>(data)[i]);
    case DType::boolean:
      break;
  }
  return convert<T>(static_cast<const bool*>(data)[i]);
}

template <class T>
__device__ __noinline__ void store_any(void* data, DType dtype, int64_t i, T value) {
  switch (dtype) {
    case DType::f32:
      static_cast<float*>(data)[i] = convert<float>(value);
      return;
    case DType::f64:
      static_cast<double*>(data)[i] = convert<double>(value);
      return;
    case DType::bf16:
      static_cast<bfloat16*>(data)[i] = convert<bfloat16>(value);
      return;
    case DType::f16:
      static_cast<float16*>(data)[i] = convert<float16>(value);
      return;
    case DType::i64:
      static_cast<int64_t*>(data)[i] = convert<int64_t>(value);
      return;
    case DType::i32:
      static_cast<int32_t*>(data)[i] = convert<int32_t>(value);
      return;
    case DType::u8:
      static_cast<uint8_t*>(data)[i] = convert<uint8_t>(value);
      return;
    case DType::boolean:
      static_cast<bool*>(data)[i] = convert<bool>(value);
      return;
  }
}

template <class T, class From, int W>
__device__ void load_row(T (&x)[W], const void* data, int64_t at) {
  const auto v = cuda::load<W>(static_cast<const From*>(data) + at);
#pragma unroll
  for (int e = 0; e < W; ++e) x[e] = convert<T>(v[e]);
}

// W neighbours of a row, or W times its constant.
template <class T, int W>
__device__ void load_piece(T (&x)[W], const void* data, DType dtype, int64_t at, bool constant) {
  if (constant) {
    const T value = load_any<T>(data, dtype, at);
#pragma unroll
    for (int e = 0; e < W; ++e) x[e] = value;
  } else if (dtype == dtype_of<T>()) {
    load_row<T, T>(x, data, at);
  } else if (sizeof(T) == 4 && dtype == DType::bf16) {
    load_row<T, bfloat16>(x, data, at);
  } else if (sizeof(T) == 4 && dtype == DType::f16) {
    load_row<T, float16>(x, data, at);
  } else {
#pragma unroll
    for (int e = 0; e < W; ++e) x[e] = load_any<T>(data, dtype, at + e);
  }
}

template <class T, class To, int W>
__device__ void store_row(void* data, int64_t at, const T (&y)[W]) {
  cuda::Vector<To, W> v;
#pragma unroll
  for (int e = 0; e < W; ++e) v[e] = convert<To>(y[e]);
  cuda::store(static_cast<To*>(data) + at, v);
}

template <class T, int W>
__device__ void store_piece(void* data, DType dtype, int64_t at, const T (&y)[W]) {
  if (dtype == dtype_of<T>()) {
    store_row<T, T>(data, at, y);
  } else if (sizeof(T) == 4 && dtype == DType::bf16) {
    store_row<T, bfloat16>(data, at, y);
  } else if (sizeof(T) == 4 && dtype == DType::f16) {
    store_row<T, float16>(data, at, y);
  } else {
#pragma unroll
    for (int e = 0; e < W; ++e) store_any<T>(data, dtype, at + e, y[e]);
  }
}

// Operand 0 is the output. Where rows are dense or constant a thread takes W neighbours, elsewhere
// one element at a time.
template <class Call, class T, size_t... I>
__global__ void __launch_bounds__(kPointwiseThreads)
    pointwise_kernel(const Call call, const cuda::Strided<sizeof...(I) + 1> s,
                     std::index_sequence<I...>) {
  constexpr int N = sizeof...(I);
  constexpr int W = kPointwiseWidth<T>;
  const uint64_t thread = uint64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const uint64_t step = uint64_t{gridDim.x} * blockDim.x;
  int64_t at[N + 1];
  uint64_t i = thread;
  if (s.vector) {
    for (i = thread * W; i + W <= s.count; i += step * W) {
      s.offsets(static_cast<unsigned>(i), at);
      T x[N][W];
      (load_piece(x[I], s.data[I + 1], s.dtype[I + 1], at[I + 1],
                  s.rank > 0 && s.stride[I + 1][0] == 0),
       ...);
      T y[W];
#pragma unroll
      for (int e = 0; e < W; ++e) y[e] = static_cast<T>(call(x[I][e]...));
      store_piece(s.data[0], s.dtype[0], at[0], y);
    }
    if (i >= s.count) return;  // else this thread has the last few
  }
  const uint64_t stride = s.vector ? 1 : step;
  for (; i < s.count; i += stride) {
    s.offsets(static_cast<unsigned>(i), at);
    store_any<T>(s.data[0], s.dtype[0], at[0],
                 static_cast<T>(call(load_any<T>(s.data[I + 1], s.dtype[I + 1], at[I + 1])...)));
  }
}

template <class Call, class T, size_t... I>
void run_on_device(const Call& call, std::string_view name, const Tensor& out,
                   const Tensor* const* inputs, std::index_sequence<I...> index) {
  constexpr int N = sizeof...(I);
  constexpr int W = kPointwiseWidth<T>;
  const Tensor* const operands[N + 1] = {&out, inputs[I]...};
  cuda::for_each_launch<N + 1>(out.shape(), operands, W, [&](const cuda::Strided<N + 1>& s) {
    const int64_t per_block = kPointwiseThreads * (s.vector ? W : 1);
    cuda::launch(name, out.device(), pointwise_kernel<Call, T, I...>,
                 cuda::blocks_for(s.count, per_block), kPointwiseThreads, 0, call, s, index);
  });
}

#endif

}  // namespace tessera::detail
