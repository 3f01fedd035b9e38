#include <bit>
#include <cstdio>
#include <cub/device/device_radix_sort.cuh>

#include "tessera/autograd/ops/plane_gather_cuda.h"
#include "tessera/core/create.h"
#include "tessera/core/cuda/kernel.h"
#include "tessera/core/cuda/planes.h"
#include "tessera/core/kernels/fill.h"

namespace tessera {
namespace {

__device__ void check_index(int64_t at, int64_t size) {
  if (at >= -1 && at < size) return;
  printf("plane_gather: index %lld is outside a plane of %lld elements\n",
         static_cast<long long>(at), static_cast<long long>(size));
  __trap();
}

// Values only travel: Bits is an integer of their size.
template <class Bits>
__global__ void gather_kernel(const Bits* x, const int64_t* index, Bits* y, int64_t planes,
                              int64_t size, unsigned positions, unsigned planes_per_index) {
  const unsigned position = cuda::plane_element();
  if (position >= positions) return;
  for (int64_t plane = cuda::first_plane(); plane < planes; plane += cuda::plane_step()) {
    const int64_t at = index[plane / planes_per_index * positions + position];
    check_index(at, size);
    y[plane * positions + position] = at < 0 ? Bits(0) : x[plane * size + at];
  }
}

// The element that an entry names, counted through all planes of indices; −1 comes last.
__global__ void key_kernel(const int64_t* index, uint64_t* key, int* entry, int64_t count,
                           int64_t per_plane, int64_t size, uint64_t last) {
  for (int64_t e = cuda::thread_index(); e < count; e += cuda::thread_count()) {
    const int64_t at = index[e];
    check_index(at, size);
    key[e] = at < 0 ? last : static_cast<uint64_t>(e / per_plane * size + at);
    entry[e] = static_cast<int>(e);
  }
}

// The first thread of a run of equal keys adds it. blockIdx.y: channels that share the index.
template <class T>
__global__ void run_kernel(const uint64_t* key, const int* entry, const cuda::Compute<T>* weight,
                           const T* y, T* x, int64_t count, uint64_t last, int64_t positions,
                           int64_t entries, int64_t size, int64_t channels) {
  using C = cuda::Compute<T>;
  const int64_t begin = cuda::thread_index();
  if (begin >= count) return;
  const uint64_t element = key[begin];
  if (element == last || (begin > 0 && key[begin - 1] == element)) return;
  const int64_t group = static_cast<int64_t>(element / static_cast<uint64_t>(size));
  const int64_t at = static_cast<int64_t>(element) - group * size;
  const int64_t base = group * positions * entries;
  for (int64_t c = blockIdx.y; c < channels; c += gridDim.y) {
    const int64_t plane = group * channels + c;
    const T* from = y + plane * positions;
    C sum = 0;
    for (int64_t e = begin; e < count && key[e] == element; ++e) {
      const C value = convert<C>(from[(entry[e] - base) / entries]);
      sum += weight != nullptr ? weight[entry[e]] * value : value;
    }
    x[plane * size + at] = convert<T>(sum);
  }
}

int64_t plane_size(const Tensor& x) {
  return x.numel() / (x.size(0) * x.size(1));
}

}  // namespace

void plane_gather_cuda(const Tensor& x, const Tensor& index, const Tensor& y) {
  if (y.numel() == 0) return;
  const int64_t planes = y.size(0) * y.size(1);
  const int64_t positions = plane_size(y);
  const int64_t size = x.numel() / planes;
  const auto shared = static_cast<unsigned>(planes / (index.size(0) * index.size(1)));
  const cuda::PlaneGrid shape = cuda::plane_grid("plane_gather", planes, positions);
  const auto run = [&]<class Bits>(Bits) {
    cuda::launch("plane_gather", x.device(), gather_kernel<Bits>, shape.grid, shape.block, 0,
                 static_cast<const Bits*>(x.raw_data()), cuda::data<int64_t>(index),
                 static_cast<Bits*>(y.raw_data()), planes, size, static_cast<unsigned>(positions),
                 shared);
  };
  switch (size_of(x.dtype())) {
    case 2:
      return run(uint16_t{});
    case 4:
      return run(uint32_t{});
    default:
      return run(uint64_t{});
  }
}

void plane_scatter_cuda(const Tensor& y, const Tensor& index, const Tensor& weight, int64_t entries,
                        const Tensor& x) {
  kernels::fill(x, 0);
  if (y.numel() == 0 || x.numel() == 0) return;
  const Device device = x.device();
  const int64_t count = index.numel();
  check(count < int64_t{1} << 31, "plane_scatter: {} indices are too many for CUDA", count);
  const int64_t groups = index.size(0) * index.size(1);  // planes of indices
  const int64_t channels = y.size(0) * y.size(1) / groups;
  const int64_t positions = plane_size(y), size = plane_size(x);
  const auto last = static_cast<uint64_t>(groups * size);

  const Tensor keys = empty({2, count}, {DType::i64, device});
  const Tensor order = empty({2, count}, {DType::i32, device});
  auto* key = reinterpret_cast<uint64_t*>(cuda::data<int64_t>(keys));
  int* entry = cuda::data<int32_t>(order);
  const unsigned blocks = cuda::blocks_for(count, 256);
  cuda::launch("plane_scatter", device, key_kernel, blocks, 256, 0, cuda::data<int64_t>(index), key,
               entry, count, count / groups, size, last);
  const int bits = std::bit_width(last);
  size_t bytes = 0;
  const auto sort = [&](void* scratch) {
    cuda::check_status(
        cub::DeviceRadixSort::SortPairs(scratch, bytes, key, key + count, entry, entry + count,
                                        static_cast<int>(count), 0, bits, cuda::stream(device)),
        "plane_scatter");
  };
  sort(nullptr);
  const Tensor scratch = empty({static_cast<int64_t>(bytes) + 1}, {DType::u8, device});
  sort(scratch.raw_data());
  const dim3 grid(static_cast<unsigned>((count + 255) / 256),
                  static_cast<unsigned>(std::min<int64_t>(channels, 65535)));
  cuda::visit_floating("plane_scatter", x.dtype(), [&]<class T>() {
    using C = cuda::Compute<T>;
    cuda::launch("plane_scatter", device, run_kernel<T>, grid, 256, 0, key + count, entry + count,
                 weight.defined() ? cuda::data<C>(weight) : nullptr, cuda::data<T>(y),
                 cuda::data<T>(x), count, last, positions, entries, size, channels);
  });
}

}  // namespace tessera
