// What a .cu file needs of the CUDA runtime: checked calls, the stream, launches, dispatch on
// dtypes. Host code; device helpers are in kernel.h. Only .cu files include this.
//
//   template <class T>
//   __global__ void scale_kernel(T* y, const T* x, float a, int64_t n) {
//     for (int64_t i = cuda::thread_index(); i < n; i += cuda::thread_count()) …
//   }
//   cuda::launch("scale", x.device(), scale_kernel<T>, cuda::blocks_for(n, 256), 256, 0, …);
//
// All kernels of a device run in order on one stream. Nothing here waits for the device.
#pragma once

#include <cuda_runtime.h>

#include <string_view>
#include <type_traits>

#include "tessera/core/device.h"
#include "tessera/core/tensor.h"

namespace tessera::cuda {

// Throws Error "what: reason" for anything but success.
void check_status(cudaError_t status, std::string_view what);

// The stream on which a device's work runs in order.
cudaStream_t stream(Device device);
int multiprocessors(Device device);
// The largest shared memory a block may ask for, in bytes.
size_t shared_limit(Device device);
// Whether the device has Hopper's own instructions (9.0) and the build is for them too (90a).
bool is_hopper(Device device);
// Whether the device's stream is being recorded into a graph.
bool is_capturing(Device device);

// Makes `device` the current one; a call that changes nothing costs a comparison.
void use(Device device);

// First element of a tensor on a device; throws when T is not the element type.
template <class T>
T* data(const Tensor& x) {
  check(x.dtype() == dtype_of<T>(), "data: tensor is {}, asked for {}", x.dtype(), dtype_of<T>());
  return static_cast<T*>(x.raw_data());
}

// kernel<<<grid, block, shared, stream>>>(arguments…), with errors of the launch checked. An empty
// grid does nothing. A block that may need more than 48 KiB of shared memory, its
// own variables included, asks for it on the way.
void prepare_shared(std::string_view op, const void* kernel, size_t shared);
template <class... P, class... A>
void launch(std::string_view op, Device device, void (*kernel)(P...), dim3 grid, dim3 block,
            size_t shared, A&&... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  use(device);
  if (shared > 32 * 1024) prepare_shared(op, reinterpret_cast<const void*>(kernel), shared);
  kernel<<<grid, block, shared, stream(device)>>>(static_cast<P>(arguments)...);
  check_status(cudaPeekAtLastError(), op);
}

// Blocks that give every element of n its thread, but at most some waves of them: kernels stride
// over the rest.
inline unsigned blocks_for(int64_t n, int64_t per_block, int64_t most = 132 * 32) {
  return static_cast<unsigned>(std::min((n + per_block - 1) / per_block, most));
}

// The type in which kernels add and compute: f32 for the halves.
template <class T>
using Compute = std::conditional_t<sizeof(T) == 2, float, T>;

// fn.template operator()<T>() for the element types in which kernels compute; `op` begins the error
// for any other.
template <class Fn>
decltype(auto) visit_floating(std::string_view op, DType dtype, Fn&& fn) {
  if (dtype == DType::f32) return fn.template operator()<float>();
  if (dtype == DType::bf16) return fn.template operator()<bfloat16>();
  if (dtype == DType::f16) return fn.template operator()<float16>();
  if (dtype == DType::f64) return fn.template operator()<double>();
  fail("{}: wants a floating dtype, got {}", op, dtype);
}

}  // namespace tessera::cuda
