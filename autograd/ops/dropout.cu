#include "tessera/autograd/ops/dropout_cuda.h"
#include "tessera/autograd/ops/softmax_rows_cuda.h"
#include "tessera/core/create.h"
#include "tessera/core/cuda/kernel.h"
#include "tessera/core/cuda/random.h"
#include "tessera/core/cuda/runtime.h"

namespace tessera {
namespace {

constexpr unsigned kThreads = 256;
constexpr int kDraws = 8;  // of one counter

// A thread thins the eight elements of one counter.
template <class T>
__global__ void dropout_kernel(const T* x, T* y, int64_t n, cuda::DeviceKey key, uint32_t least,
                               cuda::Compute<T> factor, bool aligned) {
  using C = cuda::Compute<T>;
  const cuda::Philox random(key);
  for (int64_t c = cuda::thread_index(); c * kDraws < n; c += cuda::thread_count()) {
    const int64_t first = c * kDraws;
    const bool whole = aligned && first + kDraws <= n;
    cuda::Vector<T, kDraws> piece = {};
    if (whole) {
      piece = cuda::load<kDraws>(x + first);
    } else {
#pragma unroll
      for (int i = 0; i < kDraws; ++i) {
        if (first + i < n) piece[i] = x[first + i];
      }
    }
    const auto words = random(static_cast<uint64_t>(c));
#pragma unroll
    for (int i = 0; i < kDraws; ++i) {
      const uint32_t word = words[static_cast<size_t>(i / 2)];
      const uint32_t draw = i % 2 == 0 ? word & 0xffffu : word >> 16;
      piece[i] = convert<T>(draw >= least ? convert<C>(piece[i]) * factor : C(0));
    }
    if (whole) {
      cuda::store(y + first, piece);
    } else {
#pragma unroll
      for (int i = 0; i < kDraws; ++i) {
        if (first + i < n) y[first + i] = piece[i];
      }
    }
  }
}

// Blocks (group, part of the group).
template <class T, int V>
__global__ void groups_kernel(const T* x, T* y, int64_t group, cuda::DeviceKey key, uint32_t least,
                              cuda::Compute<T> factor) {
  using C = cuda::Compute<T>;
  const int64_t row = blockIdx.x;
  const auto words = cuda::Philox(key)(static_cast<uint64_t>(row / 4));
  const int at = static_cast<int>(row % 4);
  const uint32_t word = at < 2 ? (at == 0 ? words[0] : words[1]) : (at == 2 ? words[2] : words[3]);
  const bool keep = word >> 16 >= least;
  const T* from = x + row * group;
  T* to = y + row * group;
  const int64_t step = static_cast<int64_t>(gridDim.y) * blockDim.x;
#pragma unroll 4
  for (int64_t i = (static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x) * V; i < group;
       i += step * V) {
    auto piece = cuda::load<V>(from + i);
#pragma unroll
    for (int k = 0; k < V; ++k) {
      piece[k] = convert<T>(keep ? convert<C>(piece[k]) * factor : C(0));
    }
    cuda::store(to + i, piece);
  }
}

// A warp per row; NaN is never greater, as on the CPU.
template <class T>
__global__ void one_hot_kernel(const T* x, T* y, int64_t rows, int64_t n) {
  using C = cuda::Compute<T>;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  if (row >= rows) return;
  const T* from = x + row * n;
  C best = convert<C>(from[0]);
  int64_t at = 0;
  for (int64_t i = threadIdx.x; i < n; i += cuda::kWarp) {
    const C value = convert<C>(from[i]);
    if (value > best) {
      best = value;
      at = i;
    }
  }
  for (unsigned step = cuda::kWarp / 2; step > 0; step /= 2) {
    const C value = __shfl_xor_sync(cuda::kAllLanes, best, step);
    const int64_t where = __shfl_xor_sync(cuda::kAllLanes, at, step);
    if (value > best || (value == best && where < at)) {
      best = value;
      at = where;
    }
  }
  for (int64_t i = threadIdx.x; i < n; i += cuda::kWarp) {
    y[row * n + i] = convert<T>(i == at ? 1.0f : 0.0f);
  }
}

}  // namespace

Tensor dropout_cuda(const Tensor& x, const Thinning& thinning, RandomKey key) {
  const Tensor y = empty_like(x);
  const int64_t n = x.numel();
  if (n == 0) return y;
  const cuda::DeviceKey stream = cuda::device_key(key, x.device());
  cuda::visit_floating("dropout", x.dtype(), [&]<class T>() {
    const T* from = cuda::data<T>(x);
    const auto factor = static_cast<cuda::Compute<T>>(thinning.scale);
    if (thinning.group == 1) {
      cuda::launch("dropout", x.device(), dropout_kernel<T>,
                   cuda::blocks_for(n, int64_t{kThreads} * kDraws), kThreads, 0, from,
                   cuda::data<T>(y), n, stream, thinning.threshold, factor,
                   cuda::is_aligned(from, 0));
      return;
    }
    T* to = cuda::data<T>(y);
    cuda::visit_width<T>(thinning.group, {from, to}, [&]<int V>() {
      const int64_t parts = std::clamp<int64_t>(thinning.group / (kThreads * V * 4), 1, 64);
      const dim3 grid(static_cast<unsigned>(n / thinning.group), static_cast<unsigned>(parts));
      cuda::launch("drop_path", x.device(), groups_kernel<T, V>, grid, kThreads, 0, from, to,
                   thinning.group, stream, thinning.threshold, factor);
    });
  });
  return y;
}

Tensor one_hot_of_maximum_cuda(const Tensor& x) {
  const Tensor y = empty_like(x);
  if (x.numel() == 0) return y;
  const int64_t n = x.size(-1), rows = x.numel() / n;
  cuda::visit_floating("gumbel_softmax", x.dtype(), [&]<class T>() {
    cuda::launch("gumbel_softmax", x.device(), one_hot_kernel<T>,
                 static_cast<unsigned>((rows + 7) / 8), dim3(cuda::kWarp, 8), 0, cuda::data<T>(x),
                 cuda::data<T>(y), rows, n);
  });
  return y;
}

}  // namespace tessera
