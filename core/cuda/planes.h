// Launches over many planes of one size: images of a batch, lines of a tensor. Threads walk along a
// plane, so that neighbours read and write neighbours; blocks with small planes hold several.
#pragma once

#include "tessera/core/cuda/runtime.h"

namespace tessera::cuda {

struct PlaneGrid {
  dim3 grid;
  dim3 block;
};

inline PlaneGrid plane_grid(std::string_view op, int64_t planes, int64_t size,
                            unsigned threads = 256) {
  check(size < int64_t{1} << 31, "{}: a plane has {} elements; CUDA kernels want fewer than 2^31",
        op, size);
  unsigned along = 1;
  while (along < threads && along < size) along *= 2;
  const unsigned beside = threads / along;
  return {dim3(static_cast<unsigned>((size + along - 1) / along),
               static_cast<unsigned>(std::min<int64_t>((planes + beside - 1) / beside, 65535))),
          dim3(along, beside)};
}

#ifdef __CUDACC__
// The thread's element of a plane, and its first plane and the way to its next one.
__device__ inline unsigned plane_element() {
  return blockIdx.x * blockDim.x + threadIdx.x;
}
__device__ inline int64_t first_plane() {
  return static_cast<int64_t>(blockIdx.y) * blockDim.y + threadIdx.y;
}
__device__ inline int64_t plane_step() {
  return static_cast<int64_t>(gridDim.y) * blockDim.y;
}
#endif

}  // namespace tessera::cuda
