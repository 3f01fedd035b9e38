#include <bit>
#include <cub/device/device_radix_sort.cuh>

#include "tessera/core/create.h"
#include "tessera/core/cuda/kernel.h"
#include "tessera/core/cuda/runtime.h"
#include "tessera/core/cuda/walk.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/kernels/index_cuda.h"

namespace tessera::kernels {
namespace {

using cuda::Walk;

constexpr unsigned kThreads = 256;

// fn<U>() with the unsigned integer of `bytes` bytes: elements that are only moved.
template <class Fn>
void visit_unit(int64_t bytes, const Fn& fn) {
  if (bytes == 16) return fn.template operator()<uint4>();
  if (bytes == 8) return fn.template operator()<uint64_t>();
  if (bytes == 4) return fn.template operator()<uint32_t>();
  if (bytes == 2) return fn.template operator()<uint16_t>();
  return fn.template operator()<uint8_t>();
}

template <class Fn>
void visit_addable(std::string_view op, DType dtype, const Fn& fn) {
  visit_dtype(dtype, [&]<class T>() {
    if constexpr (std::is_same_v<T, bool>) {
      fail("{}: cannot add tensors of dtype {}", op, dtype);
    } else {
      fn.template operator()<T>();
    }
  });
}

// x and y (outer, …, inner) in units; `Index` counts the units of y.
template <class Unit, class Index>
__global__ void take_kernel(Unit* y, const Unit* x, const int64_t* ids, Index units, Index n,
                            Index inner, int64_t size) {
  for (int64_t i = cuda::thread_index(); i < static_cast<int64_t>(units);
       i += cuda::thread_count()) {
    const Index at = static_cast<Index>(i);
    const Index row = at / inner;
    const Index outer = row / n;
    const int64_t id = cuda::checked_index("take", ids[row - outer * n], size);
    y[i] = x[(outer * size + id) * inner + (at - row * inner)];
  }
}

// The elements of an index tensor, in row-major order, beside those of the tensor it points into
// (without the step along the dimension itself).
struct Indexed {
  const int64_t* ids = nullptr;
  Walk index;
  Walk full;
  int64_t size = 0;  // along the dimension
  int64_t step = 0;

  Indexed(const Tensor& index_tensor, const Shape& shape, Strides strides, int64_t dim)
      : ids(cuda::data<int64_t>(index_tensor)),
        index(index_tensor.shape(), index_tensor.strides()),
        size(shape[dim]),
        step(strides[dim]) {
    strides[dim] = 0;
    full = Walk(index_tensor.shape(), strides);
  }
  // Offset in the full tensor of the place that entry i names.
  __device__ int64_t target(const char* op, int64_t i) const {
    return full.offset(i) + step * cuda::checked_index(op, ids[index.offset(i)], size);
  }
};

template <class Unit>
__global__ void gather_kernel(Unit* y, const Unit* x, Indexed indexed) {
  for (int64_t i = cuda::thread_index(); i < indexed.index.count; i += cuda::thread_count()) {
    y[i] = x[indexed.target("gather", i)];
  }
}

// The last entry of every place: entries count from 1.
__global__ void own_kernel(unsigned* owner, Indexed indexed) {
  for (int64_t i = cuda::thread_index(); i < indexed.index.count; i += cuda::thread_count()) {
    atomicMax(owner + indexed.target("scatter", i), static_cast<unsigned>(i + 1));
  }
}

template <class Unit>
__global__ void scatter_kernel(Unit* y, const Unit* src, Walk from, const unsigned* owner,
                               Indexed owned, Indexed indexed) {
  for (int64_t i = cuda::thread_index(); i < indexed.index.count; i += cuda::thread_count()) {
    if (owner[owned.target("scatter", i)] != static_cast<unsigned>(i + 1)) continue;
    y[indexed.target("scatter", i)] = src[from.offset(i)];
  }
}

// Lines along the dimension, each added up by one thread in order.
template <class T>
__global__ void add_lines(T* y, const T* src, const int64_t* ids, Walk lines_y, Walk lines_ids,
                          Walk lines_src, int64_t count, int64_t size, int64_t step_y,
                          int64_t step_ids, int64_t step_src) {
  using C = cuda::Compute<T>;
  for (int64_t i = cuda::thread_index(); i < lines_y.count; i += cuda::thread_count()) {
    T* to = y + lines_y.offset(i);
    const int64_t* id = ids + lines_ids.offset(i);
    const T* from = src + lines_src.offset(i);
    for (int64_t k = 0; k < count; ++k) {
      T& sum = to[step_y * cuda::checked_index("scatter_add", id[k * step_ids], size)];
      sum = convert<T>(static_cast<C>(convert<C>(sum) + convert<C>(from[k * step_src])));
    }
  }
}

__global__ void list_kernel(int64_t* keys, unsigned* positions, const int64_t* ids, int64_t n,
                            int64_t size) {
  for (int64_t i = cuda::thread_index(); i < n; i += cuda::thread_count()) {
    keys[i] = cuda::checked_index("add_at", ids[i], size);
    positions[i] = static_cast<unsigned>(i);
  }
}

__global__ void target_kernel(int64_t* keys, unsigned* positions, Indexed indexed) {
  for (int64_t i = cuda::thread_index(); i < indexed.index.count; i += cuda::thread_count()) {
    keys[i] = indexed.target("scatter_add", i);
    positions[i] = static_cast<unsigned>(i);
  }
}

// Rows of `inner` elements of src (outer, n, inner), grouped by key: the places of a group stand
// together in `keys`. Row `key` of y begins at rows.offset(key), and outer slices of y lie `slice`
// elements apart.
template <class T>
struct Groups {
  T* y;
  const T* src;
  const int64_t* keys;
  const unsigned* positions;
  int64_t n;
  int64_t outer;
  int64_t inner;
  int64_t slice;
  Walk rows;
};

constexpr int64_t kShort = 32;  // longer groups are shared by a block

// A thread adds one column of a short group, found at its first place.
template <class T>
__global__ void add_short_groups(Groups<T> g) {
  using C = cuda::Compute<T>;
  const int64_t total = g.outer * g.n * g.inner;
  for (int64_t i = cuda::thread_index(); i < total; i += cuda::thread_count()) {
    const int64_t place = i / g.inner, column = i - place * g.inner;
    const int64_t slice = place / g.n, begin = place - slice * g.n;
    const int64_t key = g.keys[begin];
    if (begin > 0 && g.keys[begin - 1] == key) continue;
    if (begin + kShort < g.n && g.keys[begin + kShort] == key) continue;
    const T* src = g.src + slice * g.n * g.inner + column;
    C sum{};
    for (int64_t k = begin; k < g.n && g.keys[k] == key; ++k) {
      sum += convert<C>(src[static_cast<int64_t>(g.positions[k]) * g.inner]);
    }
    T& to = g.y[slice * g.slice + g.rows.offset(key) + column];
    to = convert<T>(static_cast<C>(convert<C>(to) + sum));
  }
}

// First place whose key is not less than `key` (not greater: `after`).
__device__ inline int64_t bound(const int64_t* keys, int64_t n, int64_t key, bool after) {
  int64_t low = 0, high = n;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (keys[middle] < key || (after && keys[middle] == key)) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// Block b of a slice looks at place kShort · b; the first block inside a long group adds it, 32
// columns at a time.
template <class T>
__global__ void add_long_groups(Groups<T> g) {
  using C = cuda::Compute<T>;
  __shared__ C scratch[kThreads / 32][33];
  const int64_t blocks = (g.n + kShort - 1) / kShort;
  const int64_t slice = blockIdx.x / blocks;
  const int64_t place = (blockIdx.x - slice * blocks) * kShort;
  const int64_t key = g.keys[place];
  const int64_t begin = bound(g.keys, g.n, key, false);
  if (place - begin >= kShort) return;  // an earlier block is inside too
  const int64_t end = bound(g.keys, g.n, key, true);
  if (end - begin <= kShort) return;
  const int64_t lane = threadIdx.x % 32, part = threadIdx.x / 32;
  // Few columns leave lanes over: they share the places.
  int64_t width = 1;
  while (width < g.inner && width < 32) width *= 2;
  const int64_t share = part * (32 / width) + lane / width, shares = kThreads / width;
  for (int64_t first = 0; first < g.inner; first += width) {
    const int64_t column = first + lane % width;
    const T* src = g.src + slice * g.n * g.inner + column;
    C sum{};
    if (column < g.inner) {
#pragma unroll 4
      for (int64_t k = begin + share; k < end; k += shares) {
        sum += convert<C>(src[static_cast<int64_t>(g.positions[k]) * g.inner]);
      }
    }
    for (int64_t step = 16; step >= width; step /= 2) {
      sum += __shfl_xor_sync(cuda::kAllLanes, sum, static_cast<int>(step));
    }
    __syncthreads();
    scratch[part][lane] = sum;
    __syncthreads();
    if (part == 0 && lane < width && column < g.inner) {
      C total{};
      for (unsigned p = 0; p < kThreads / 32; ++p) total += scratch[p][lane];
      T& to = g.y[slice * g.slice + g.rows.offset(key) + column];
      to = convert<T>(static_cast<C>(convert<C>(to) + total));
    }
  }
}

void check_count(std::string_view op, int64_t n) {
  check(n < int64_t{1} << 32, "{}: {} indices; a device takes fewer than 2^32 at once", op, n);
}

// y += the rows of src, by sorted keys.
template <class T>
void add_groups(std::string_view op, Groups<T> g, const Tensor& keys, const Tensor& positions,
                int bits) {
  const auto [sorted, order] = sort_pairs_cuda(op, keys, positions, bits);
  g.keys = cuda::data<int64_t>(sorted);
  g.positions = static_cast<const unsigned*>(order.raw_data());
  const int64_t total = g.outer * g.n * g.inner;
  cuda::launch(op, keys.device(), add_short_groups<T>, cuda::blocks_for(total, kThreads), kThreads,
               0, g);
  const int64_t blocks = (g.n + kShort - 1) / kShort * g.outer;
  if (g.n <= kShort) return;
  check(blocks < int64_t{1} << 31, "{}: {} slices of {} indices are too many", op, g.outer, g.n);
  cuda::launch(op, keys.device(), add_long_groups<T>, static_cast<unsigned>(blocks), kThreads, 0,
               g);
}

}  // namespace

int bits_below(int64_t bound) {
  return std::max(1, static_cast<int>(std::bit_width(static_cast<uint64_t>(bound - 1))));
}

std::pair<Tensor, Tensor> sort_pairs_cuda(std::string_view op, const Tensor& keys,
                                          const Tensor& values, int bits) {
  const Device device = keys.device();
  check_count(op, keys.numel());
  const Tensor other_keys = empty_like(keys), other_values = empty_like(values);
  const auto unsigned_keys = [](const Tensor& t) { return static_cast<uint64_t*>(t.raw_data()); };
  const auto unsigned_values = [](const Tensor& t) { return static_cast<uint32_t*>(t.raw_data()); };
  cub::DoubleBuffer<uint64_t> k(unsigned_keys(keys), unsigned_keys(other_keys));
  cub::DoubleBuffer<uint32_t> v(unsigned_values(values), unsigned_values(other_values));
  const auto n = static_cast<uint32_t>(keys.numel());
  cuda::use(device);
  size_t bytes = 0;
  cuda::check_status(
      cub::DeviceRadixSort::SortPairs(nullptr, bytes, k, v, n, 0, bits, cuda::stream(device)), op);
  const Tensor scratch = empty({static_cast<int64_t>(bytes) + 1}, {DType::u8, device});
  cuda::check_status(cub::DeviceRadixSort::SortPairs(scratch.raw_data(), bytes, k, v, n, 0, bits,
                                                     cuda::stream(device)),
                     op);
  return {k.Current() == unsigned_keys(keys) ? keys : other_keys,
          v.Current() == unsigned_values(values) ? values : other_values};
}

Tensor take_cuda(const Tensor& x, int64_t dim, const Tensor& ids) {
  const Tensor source = contiguous(x);
  const Tensor list = contiguous(ids);
  int64_t outer = 1, inner = 1;
  for (int64_t d = 0; d < x.rank(); ++d) {
    if (d != dim) (d < dim ? outer : inner) *= x.shape()[d];
  }
  Shape shape = x.shape();
  shape[dim] = ids.numel();
  const Tensor y = empty(shape, {x.dtype(), x.device()});
  if (y.numel() == 0) return y;
  const int64_t bytes = inner * size_of(x.dtype());
  int64_t unit = 16;
  while (bytes % unit != 0 || reinterpret_cast<uintptr_t>(source.raw_data()) % unit != 0) unit /= 2;
  const int64_t units = y.numel() * size_of(x.dtype()) / unit;
  visit_unit(unit, [&]<class Unit>() {
    const auto run = [&]<class Index>(Index total) {
      cuda::launch("take", x.device(), take_kernel<Unit, Index>, cuda::blocks_for(units, kThreads),
                   kThreads, 0, static_cast<Unit*>(y.raw_data()),
                   static_cast<const Unit*>(source.raw_data()), cuda::data<int64_t>(list), total,
                   static_cast<Index>(ids.numel()), static_cast<Index>(bytes / unit),
                   x.shape()[dim]);
    };
    units < int64_t{1} << 32 ? run(static_cast<unsigned>(units)) : run(units);
  });
  return y;
}

void add_at_cuda(const Tensor& y, int64_t dim, const Tensor& ids, const Tensor& src) {
  const Tensor source = contiguous(cast(src, y.dtype()));
  if (source.numel() == 0) return;
  const Tensor list = contiguous(ids);
  const int64_t n = ids.numel(), size = y.shape()[dim];
  check_count("add_at", n);
  const Tensor keys = empty({n}, {DType::i64, y.device()});
  const Tensor positions = empty({n}, {DType::i32, y.device()});
  cuda::launch("add_at", y.device(), list_kernel, cuda::blocks_for(n, kThreads), kThreads, 0,
               cuda::data<int64_t>(keys), static_cast<unsigned*>(positions.raw_data()),
               cuda::data<int64_t>(list), n, size);
  visit_addable("add_at", y.dtype(), [&]<class T>() {
    Groups<T> g{};
    g.y = cuda::data<T>(y);
    g.src = cuda::data<T>(source);
    g.n = n;
    g.outer = 1;
    g.inner = 1;
    for (int64_t d = 0; d < y.rank(); ++d) {
      if (d != dim) (d < dim ? g.outer : g.inner) *= y.shape()[d];
    }
    g.slice = size * g.inner;
    g.rows = Walk({size}, {g.inner});
    add_groups<T>("add_at", g, keys, positions, bits_below(size));
  });
}

Tensor gather_cuda(const Tensor& x, int64_t dim, const Tensor& index) {
  const Tensor y = empty(index.shape(), {x.dtype(), x.device()});
  if (y.numel() == 0) return y;
  const Indexed indexed(index, x.shape(), x.strides(), dim);
  visit_unit(size_of(x.dtype()), [&]<class Unit>() {
    cuda::launch("gather", x.device(), gather_kernel<Unit>, cuda::blocks_for(y.numel(), kThreads),
                 kThreads, 0, static_cast<Unit*>(y.raw_data()),
                 static_cast<const Unit*>(x.raw_data()), indexed);
  });
  return y;
}

void scatter_cuda(const Tensor& y, int64_t dim, const Tensor& index, const Tensor& src) {
  const int64_t n = index.numel();
  if (n == 0) return;
  check_count("scatter", n + 1);
  const Tensor source = cast(src, y.dtype());
  const Tensor owner = zeros(y.shape(), {DType::i32, y.device()});
  const Indexed owned(index, y.shape(), contiguous_strides(y.shape()), dim);
  const Indexed indexed(index, y.shape(), y.strides(), dim);
  const auto owners = static_cast<unsigned*>(owner.raw_data());
  const unsigned blocks = cuda::blocks_for(n, kThreads);
  cuda::launch("scatter", y.device(), own_kernel, blocks, kThreads, 0, owners, owned);
  visit_unit(size_of(y.dtype()), [&]<class Unit>() {
    cuda::launch("scatter", y.device(), scatter_kernel<Unit>, blocks, kThreads, 0,
                 static_cast<Unit*>(y.raw_data()), static_cast<const Unit*>(source.raw_data()),
                 Walk(source.shape(), source.strides()), owners, owned, indexed);
  });
}

void scatter_add_cuda(const Tensor& y, int64_t dim, const Tensor& index, const Tensor& src) {
  const int64_t n = index.numel(), count = index.shape()[dim], size = y.shape()[dim];
  if (n == 0) return;
  const Tensor source = cast(src, y.dtype());
  const auto line = [&](const Tensor& x) {
    Shape sizes = index.shape();
    Strides strides = x.strides();
    sizes.erase(dim);
    strides.erase(dim);
    return Walk(sizes, strides);
  };
  // Halves are rounded once, so a line of several entries goes through groups.
  const bool lines = count == 1 || (count <= 256 && !is_half(y.dtype()));
  visit_addable("scatter_add", y.dtype(), [&]<class T>() {
    if (lines) {
      cuda::launch("scatter_add", y.device(), add_lines<T>, cuda::blocks_for(n / count, kThreads),
                   kThreads, 0, cuda::data<T>(y), cuda::data<T>(source), cuda::data<int64_t>(index),
                   line(y), line(index), line(source), count, size, y.strides()[dim],
                   index.strides()[dim], source.strides()[dim]);
      return;
    }
    check_count("scatter_add", n);
    const Tensor dense = contiguous(source);
    const Tensor keys = empty({n}, {DType::i64, y.device()});
    const Tensor positions = empty({n}, {DType::i32, y.device()});
    cuda::launch("scatter_add", y.device(), target_kernel, cuda::blocks_for(n, kThreads), kThreads,
                 0, cuda::data<int64_t>(keys), static_cast<unsigned*>(positions.raw_data()),
                 Indexed(index, y.shape(), contiguous_strides(y.shape()), dim));
    Groups<T> g{};
    g.y = cuda::data<T>(y);
    g.src = cuda::data<T>(dense);
    g.n = n;
    g.outer = 1;
    g.inner = 1;
    g.rows = Walk(y.shape(), y.strides());
    add_groups<T>("scatter_add", g, keys, positions, bits_below(y.numel()));
  });
}

}  // namespace tessera::kernels
