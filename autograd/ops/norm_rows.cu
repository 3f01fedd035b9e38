#include <algorithm>

#include "tessera/autograd/ops/norm_rows_cuda.h"
#include "tessera/core/create.h"
#include "tessera/core/cuda/kernel.h"
#include "tessera/core/cuda/runtime.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/kernels/fill.h"

namespace tessera::detail {
namespace {

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

template <class T>
struct ForwardArguments {
  const T* x;
  const T* branch;  // null: s = x
  T* sum;
  T* y;
  Compute<T>* stats;
  Parameter<T> weight, bias;
  int64_t rows, size;
  bool centered;
  double eps;
};

template <class T>
struct BackwardArguments {
  const T* s;
  const T* grad;
  const T* residual;  // may be null
  T* gs;
  const Compute<T>* stats;
  Compute<T>* partials;  // (blocks, 2, size), sums of g x̂ and of g; null: unwanted
  Parameter<T> weight;
  int64_t rows, size;
  bool centered;
};

template <class C>
__device__ C inverse_deviation(C squares, int64_t size, double eps) {
  return C(1) / sqrt(squares / static_cast<C>(size) + static_cast<C>(eps));
}

// s = x + branch, rounded as it is stored.
template <class T, int V>
__device__ void add_to(cuda::Vector<T, V>& x, const cuda::Vector<T, V>& branch) {
  using C = Compute<T>;
#pragma unroll
  for (int e = 0; e < V; ++e) x[e] = convert<T>(convert<C>(x[e]) + convert<C>(branch[e]));
}

// Warps per block such that two blocks' registers hold, for E columns per lane, so many arrays of
// sums and parameters and so many rows.
template <class T, int E, bool kVector, int kArrays, int kRows>
constexpr int warps_that_fit() {
  constexpr int kWide = static_cast<int>(sizeof(Compute<T>));
  constexpr int kElement = kVector ? static_cast<int>(sizeof(T)) : kWide;
  constexpr int kRegisters = E * (kArrays * kWide + kRows * kElement) / 4 + 48;
  return std::clamp(1024 / kRegisters, 4, 8);
}
template <class T, int E, bool kVector>
constexpr int kForwardWarps = warps_that_fit<T, E, kVector, 2, 2>();
template <class T, int E, bool kVector>
constexpr int kBackwardWarps = warps_that_fit<T, E, kVector, 3, 3>();

// A warp per row, the row in registers: E elements per lane, in vectors of V. Parameters stay in
// registers for all rows of a warp.
template <class T, int E, bool kVector>
__global__ void __launch_bounds__(kForwardWarps<T, E, kVector> * 32, 2)
    forward_warp_kernel(ForwardArguments<T> p) {
  using C = Compute<T>;
  constexpr int V = kVector ? cuda::kVectorSize<T> : 1;
  constexpr int N = E / V;
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const int size = static_cast<int>(p.size);
  const auto column = [lane](int j) { return (j * static_cast<int>(kWarp) + lane) * V; };
  C w[E] = {}, shift[E] = {};
#pragma unroll
  for (int j = 0; j < N; ++j) {
    if (column(j) >= size) continue;
    p.weight.template read<V>(column(j), w + j * V);
    p.bias.template read<V>(column(j), shift + j * V);
  }
  const int64_t step = cuda::thread_count() / kWarp;
  for (int64_t row = cuda::thread_index() / kWarp; row < p.rows; row += step) {
    const int64_t at = row * p.size;
    cuda::Vector<T, V> s[N];
#pragma unroll
    for (int j = 0; j < N; ++j) {
      if (column(j) < size) s[j] = cuda::load<V>(p.x + at + column(j));
    }
    if (p.branch != nullptr) {
      cuda::Vector<T, V> branch[N];
#pragma unroll
      for (int j = 0; j < N; ++j) {
        if (column(j) < size) branch[j] = cuda::load<V>(p.branch + at + column(j));
      }
#pragma unroll
      for (int j = 0; j < N; ++j) {
        if (column(j) >= size) continue;
        add_to<T, V>(s[j], branch[j]);
        cuda::store(p.sum + at + column(j), s[j]);
      }
    }
    C mean = 0;
    if (p.centered) {
#pragma unroll
      for (int j = 0; j < N; ++j) {
        if (column(j) >= size) continue;
#pragma unroll
        for (int e = 0; e < V; ++e) mean += convert<C>(s[j][e]);
      }
      mean = cuda::warp_reduce(mean, cuda::Sum{}) / static_cast<C>(size);
    }
    C squares = 0;
#pragma unroll
    for (int j = 0; j < N; ++j) {
      if (column(j) >= size) continue;
#pragma unroll
      for (int e = 0; e < V; ++e) {
        const C d = convert<C>(s[j][e]) - mean;
        squares += d * d;
      }
    }
    const C scale = inverse_deviation(cuda::warp_reduce(squares, cuda::Sum{}), size, p.eps);
    if (lane == 0) {
      p.stats[2 * row] = mean;
      p.stats[2 * row + 1] = scale;
    }
#pragma unroll
    for (int j = 0; j < N; ++j) {
      if (column(j) >= size) continue;
      cuda::Vector<T, V> y;
#pragma unroll
      for (int e = 0; e < V; ++e) {
        y[e] = convert<T>((convert<C>(s[j][e]) - mean) * scale * w[j * V + e] + shift[j * V + e]);
      }
      cuda::store(p.y + at + column(j), y);
    }
  }
}

// A warp strides over rows and owns the same columns in each, so the sums for weight and bias stay
// in its registers; in the end the warps of a block are added in order.
template <class T, int E, bool kVector>
__global__ void __launch_bounds__(kBackwardWarps<T, E, kVector> * 32, 2)
    backward_warp_kernel(BackwardArguments<T> p) {
  using C = Compute<T>;
  constexpr int V = kVector ? cuda::kVectorSize<T> : 1;
  constexpr int N = E / V;
  constexpr unsigned kWarps = kBackwardWarps<T, E, kVector>;
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const int size = static_cast<int>(p.size);
  const auto column = [lane](int j) { return (j * static_cast<int>(kWarp) + lane) * V; };
  C w[E] = {}, gw[E] = {}, gb[E] = {};
#pragma unroll
  for (int j = 0; j < N; ++j) {
    if (column(j) < size) p.weight.template read<V>(column(j), w + j * V);
  }
  const unsigned warp = threadIdx.x / kWarp;
  for (int64_t row = int64_t{blockIdx.x} * kWarps + warp; row < p.rows;
       row += int64_t{gridDim.x} * kWarps) {
    const int64_t at = row * p.size;
    cuda::Vector<T, V> s[N], g[N], residual[N];
#pragma unroll
    for (int j = 0; j < N; ++j) {
      if (column(j) >= size) continue;
      s[j] = cuda::load<V>(p.s + at + column(j));
      g[j] = cuda::load<V>(p.grad + at + column(j));
    }
    if (p.residual != nullptr) {
#pragma unroll
      for (int j = 0; j < N; ++j) {
        if (column(j) < size) residual[j] = cuda::load<V>(p.residual + at + column(j));
      }
    }
    const C mean = p.stats[2 * row], scale = p.stats[2 * row + 1];
    C c1 = 0, c2 = 0;
#pragma unroll
    for (int j = 0; j < N; ++j) {
      if (column(j) >= size) continue;
#pragma unroll
      for (int e = 0; e < V; ++e) {
        const C grad = convert<C>(g[j][e]);
        const C h = w[j * V + e] * grad;
        const C z = (convert<C>(s[j][e]) - mean) * scale;
        c1 += h;
        c2 += h * z;
        gw[j * V + e] += grad * z;
        gb[j * V + e] += grad;
      }
    }
    c1 = p.centered ? cuda::warp_reduce(c1, cuda::Sum{}) / static_cast<C>(size) : C(0);
    c2 = cuda::warp_reduce(c2, cuda::Sum{}) / static_cast<C>(size);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      if (column(j) >= size) continue;
      cuda::Vector<T, V> gs;
#pragma unroll
      for (int e = 0; e < V; ++e) {
        const C h = w[j * V + e] * convert<C>(g[j][e]);
        const C z = (convert<C>(s[j][e]) - mean) * scale;
        C value = scale * (h - c1 - z * c2);
        if (p.residual != nullptr) value += convert<C>(residual[j][e]);
        gs[e] = convert<T>(value);
      }
      cuda::store(p.gs + at + column(j), gs);
    }
  }
  if (p.partials == nullptr) return;
  extern __shared__ __align__(16) unsigned char memory[];
  C* sums = reinterpret_cast<C*>(memory);
  for (unsigned turn = 0; turn < kWarps; ++turn) {
    if (warp == turn) {
#pragma unroll
      for (int j = 0; j < N; ++j) {
        if (column(j) >= size) continue;
#pragma unroll
        for (int e = 0; e < V; ++e) {
          const int i = column(j) + e;
          sums[i] = turn == 0 ? gw[j * V + e] : sums[i] + gw[j * V + e];
          sums[size + i] = turn == 0 ? gb[j * V + e] : sums[size + i] + gb[j * V + e];
        }
      }
    }
    __syncthreads();
  }
  for (int i = static_cast<int>(threadIdx.x); i < 2 * size; i += static_cast<int>(blockDim.x)) {
    p.partials[blockIdx.x * 2 * p.size + i] = sums[i];
  }
}

// A block per row. A thread always meets the same columns, so what one pass leaves in shared memory
// the next may read without a barrier.
constexpr int64_t kBlockThreads = 512;

// `cached`: shared memory holds a row; else later passes read it again.
template <class T, bool kVector>
__global__ void __launch_bounds__(kBlockThreads)
    forward_block_kernel(ForwardArguments<T> p, bool cached) {
  using C = Compute<T>;
  constexpr int V = kVector ? cuda::kVectorSize<T> : 1;
  extern __shared__ __align__(16) unsigned char memory[];
  __shared__ C scratch[kWarp];
  const int64_t first = int64_t{threadIdx.x} * V, step = int64_t{blockDim.x} * V;
  for (int64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
    const int64_t at = row * p.size;
    const T* s = cached                ? reinterpret_cast<const T*>(memory)
                 : p.branch != nullptr ? p.sum + at
                                       : p.x + at;
    C mean = 0;
    for (int64_t c = first; c < p.size; c += step) {
      auto v = cuda::load<V>(p.x + at + c);
      if (p.branch != nullptr) {
        add_to<T, V>(v, cuda::load<V>(p.branch + at + c));
        cuda::store(p.sum + at + c, v);
      }
      if (cached) cuda::store(reinterpret_cast<T*>(memory) + c, v);
#pragma unroll
      for (int e = 0; e < V; ++e) mean += convert<C>(v[e]);
    }
    mean = p.centered
               ? cuda::block_reduce(mean, cuda::Sum{}, C(0), scratch) / static_cast<C>(p.size)
               : C(0);
    C squares = 0;
    for (int64_t c = first; c < p.size; c += step) {
      const auto v = cuda::load<V>(s + c);
#pragma unroll
      for (int e = 0; e < V; ++e) {
        const C d = convert<C>(v[e]) - mean;
        squares += d * d;
      }
    }
    squares = cuda::block_reduce(squares, cuda::Sum{}, C(0), scratch);
    const C scale = inverse_deviation(squares, p.size, p.eps);
    if (threadIdx.x == 0) {
      p.stats[2 * row] = mean;
      p.stats[2 * row + 1] = scale;
    }
    for (int64_t c = first; c < p.size; c += step) {
      const auto v = cuda::load<V>(s + c);
      C w[V], shift[V];
      p.weight.template read<V>(c, w);
      p.bias.template read<V>(c, shift);
      cuda::Vector<T, V> y;
#pragma unroll
      for (int e = 0; e < V; ++e) {
        y[e] = convert<T>((convert<C>(v[e]) - mean) * scale * w[e] + shift[e]);
      }
      cuda::store(p.y + at + c, y);
    }
  }
}

// `own_sums`: shared memory begins with the block's row of partial sums, which else stay in global
// memory; `cached`: it goes on with the rows of s and of the gradient.
template <class T, bool kVector>
__global__ void __launch_bounds__(kBlockThreads)
    backward_block_kernel(BackwardArguments<T> p, bool own_sums, bool cached) {
  using C = Compute<T>;
  constexpr int V = kVector ? cuda::kVectorSize<T> : 1;
  extern __shared__ __align__(16) unsigned char memory[];
  __shared__ C scratch[kWarp];
  const int64_t first = int64_t{threadIdx.x} * V, step = int64_t{blockDim.x} * V;
  C* partial = p.partials == nullptr ? nullptr : p.partials + blockIdx.x * 2 * p.size;
  C* sums = own_sums ? reinterpret_cast<C*>(memory) : partial;
  T* kept = reinterpret_cast<T*>(memory + (own_sums ? 2 * p.size * sizeof(C) : 0));
  if (partial != nullptr) {
    for (int64_t c = first; c < p.size; c += step) {
      cuda::store(sums + c, cuda::Vector<C, V>{});
      cuda::store(sums + p.size + c, cuda::Vector<C, V>{});
    }
  }
  for (int64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
    const int64_t at = row * p.size;
    const C mean = p.stats[2 * row], scale = p.stats[2 * row + 1];
    C c1 = 0, c2 = 0;
    for (int64_t c = first; c < p.size; c += step) {
      const auto s = cuda::load<V>(p.s + at + c);
      const auto g = cuda::load<V>(p.grad + at + c);
      if (cached) {
        cuda::store(kept + c, s);
        cuda::store(kept + p.size + c, g);
      }
      C w[V];
      p.weight.template read<V>(c, w);
      cuda::Vector<C, V> gw{}, gb{};
      if (partial != nullptr) {
        gw = cuda::load<V>(sums + c);
        gb = cuda::load<V>(sums + p.size + c);
      }
#pragma unroll
      for (int e = 0; e < V; ++e) {
        const C grad = convert<C>(g[e]);
        const C z = (convert<C>(s[e]) - mean) * scale;
        c1 += w[e] * grad;
        c2 += w[e] * grad * z;
        gw[e] += grad * z;
        gb[e] += grad;
      }
      if (partial != nullptr) {
        cuda::store(sums + c, gw);
        cuda::store(sums + p.size + c, gb);
      }
    }
    c1 = p.centered ? cuda::block_reduce(c1, cuda::Sum{}, C(0), scratch) / static_cast<C>(p.size)
                    : C(0);
    c2 = cuda::block_reduce(c2, cuda::Sum{}, C(0), scratch) / static_cast<C>(p.size);
    const T* again_s = cached ? kept : p.s + at;
    const T* again_g = cached ? kept + p.size : p.grad + at;
    for (int64_t c = first; c < p.size; c += step) {
      const auto s = cuda::load<V>(again_s + c);
      const auto g = cuda::load<V>(again_g + c);
      cuda::Vector<T, V> residual{}, gs;
      if (p.residual != nullptr) residual = cuda::load<V>(p.residual + at + c);
      C w[V];
      p.weight.template read<V>(c, w);
#pragma unroll
      for (int e = 0; e < V; ++e) {
        const C z = (convert<C>(s[e]) - mean) * scale;
        C value = scale * (w[e] * convert<C>(g[e]) - c1 - z * c2);
        if (p.residual != nullptr) value += convert<C>(residual[e]);
        gs[e] = convert<T>(value);
      }
      cuda::store(p.gs + at + c, gs);
    }
  }
  if (partial == nullptr || !own_sums) return;
  for (int64_t c = first; c < p.size; c += step) {
    cuda::store(partial + c, cuda::load<V>(sums + c));
    cuda::store(partial + p.size + c, cuda::load<V>(sums + p.size + c));
  }
}

// 32 columns and 16 shares of the rows per block.
constexpr unsigned kShares = 16;

template <class C, class W>
__global__ void add_partials_kernel(const C* partials, int64_t rows, int64_t size, W* gw, W* gb) {
  __shared__ C shares[kShares][kWarp];
  const int64_t column = int64_t{blockIdx.x} * kWarp + threadIdx.x;
  C total = 0;
  if (column < 2 * size) {
#pragma unroll 8
    for (int64_t row = threadIdx.y; row < rows; row += kShares) {
      total += partials[row * 2 * size + column];
    }
  }
  shares[threadIdx.y][threadIdx.x] = total;
  __syncthreads();
  if (threadIdx.y != 0 || column >= 2 * size) return;
  for (unsigned i = 1; i < kShares; ++i) total += shares[i][threadIdx.x];
  W* to = column < size ? gw : gb;
  if (to != nullptr) to[column < size ? column : column - size] = convert<W>(total);
}

template <class C, class W>
void add_partials(std::string_view op, const Tensor& partials, const Tensor& gw, const Tensor& gb) {
  const int64_t size = partials.size(2);
  cuda::launch(op, partials.device(), add_partials_kernel<C, W>,
               static_cast<unsigned>((2 * size + kWarp - 1) / kWarp), dim3(kWarp, kShares), 0,
               cuda::data<C>(partials), partials.size(0), size,
               gw.defined() ? cuda::data<W>(gw) : nullptr,
               gb.defined() ? cuda::data<W>(gb) : nullptr);
}

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
bool all_aligned(int64_t row_bytes, std::initializer_list<const Tensor*> tensors) {
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

unsigned threads_for_row(int64_t size, int64_t vector_size) {
  const int64_t warps = (size + vector_size * kWarp - 1) / (vector_size * kWarp);
  return static_cast<unsigned>(std::min<int64_t>(kBlockThreads, warps * kWarp));
}

// What a block may take beside its static shared memory.
int64_t dynamic_limit(Device device) {
  return static_cast<int64_t>(cuda::shared_limit(device)) - 1024;
}

template <class T>
void run(const NormRows& o, const NormRows::Forward& f) {
  const Device device = f.x.device();
  const Tensor weight = f.weight.defined() ? kernels::contiguous(f.weight) : Tensor{};
  const Tensor bias = f.bias.defined() ? kernels::contiguous(f.bias) : Tensor{};
  const int64_t rows = o.rows(f.x);
  const ForwardArguments<T> p{.x = cuda::data<T>(f.x),
                              .branch = data_or_null<T>(f.branch),
                              .sum = data_or_null<T>(f.sum),
                              .y = cuda::data<T>(f.y),
                              .stats = cuda::data<Compute<T>>(f.stats),
                              .weight = parameter<T>(weight, 1),
                              .bias = parameter<T>(bias, 0),
                              .rows = rows,
                              .size = o.size,
                              .centered = o.centered,
                              .eps = o.eps};
  const auto row_bytes = o.size * static_cast<int64_t>(sizeof(T));
  const bool vector = all_aligned(row_bytes, {&f.x, &f.branch, &f.sum, &f.y, &weight, &bias});
  const int64_t processors = cuda::multiprocessors(device);
  if (fits_a_warp<T>(o.size)) {
    visit_width<T>(o.size, vector, [&]<int E, bool kVector>() {
      constexpr int kWarps = kForwardWarps<T, E, kVector>;
      const int64_t most = processors * (E <= 16 ? 4 : 2);
      cuda::launch(o.op, device, forward_warp_kernel<T, E, kVector>,
                   cuda::blocks_for(rows, kWarps, most), kWarps * kWarp, 0, p);
    });
    return;
  }
  const bool cached = row_bytes <= dynamic_limit(device) / 2;
  const auto kernel = vector ? forward_block_kernel<T, true> : forward_block_kernel<T, false>;
  cuda::launch(o.op, device, kernel, cuda::blocks_for(rows, 1, processors * 8),
               threads_for_row(o.size, vector ? cuda::kVectorSize<T> : 1),
               cached ? static_cast<size_t>(row_bytes) : 0, p, cached);
}

template <class T>
void run_back(const NormRows& o, const NormRows::Backward& b) {
  using C = Compute<T>;
  const Device device = b.s.device();
  const Tensor weight = b.weight.defined() ? kernels::contiguous(b.weight) : Tensor{};
  const int64_t rows = o.rows(b.s);
  const bool in_warp = fits_a_warp<T>(o.size);
  const bool wants_sums = b.gw.defined() || b.gb.defined();
  const auto row_bytes = o.size * static_cast<int64_t>(sizeof(T));
  const int64_t sum_bytes = wants_sums ? 2 * o.size * static_cast<int64_t>(sizeof(C)) : 0;
  const bool vector = all_aligned(row_bytes, {&b.s, &b.grad, &b.residual, &b.gs, &weight});
  const int64_t most = 2 * int64_t{cuda::multiprocessors(device)};
  Tensor partials;
  BackwardArguments<T> p{.s = cuda::data<T>(b.s),
                         .grad = cuda::data<T>(b.grad),
                         .residual = data_or_null<T>(b.residual),
                         .gs = cuda::data<T>(b.gs),
                         .stats = cuda::data<C>(b.stats),
                         .partials = nullptr,
                         .weight = parameter<T>(weight, 1),
                         .rows = rows,
                         .size = o.size,
                         .centered = o.centered};
  const auto launch = [&](const auto& kernel, int64_t rows_per_block, unsigned threads,
                          int64_t shared, const auto&... more) {
    const unsigned blocks = cuda::blocks_for(rows, rows_per_block, most);
    if (wants_sums) {
      partials = empty({int64_t{blocks}, 2, o.size}, {dtype_of<C>(), device});
      p.partials = cuda::data<C>(partials);
    }
    cuda::launch(o.op, device, kernel, blocks, threads, static_cast<size_t>(shared), p, more...);
  };
  if (in_warp) {
    visit_width<T>(o.size, vector, [&]<int E, bool kVector>() {
      constexpr int kWarps = kBackwardWarps<T, E, kVector>;
      launch(backward_warp_kernel<T, E, kVector>, kWarps, kWarps * kWarp, sum_bytes);
    });
  } else {
    const int64_t limit = dynamic_limit(device);
    const bool own_sums = sum_bytes <= limit;
    int64_t shared = own_sums ? sum_bytes : 0;
    const bool cached = shared + 2 * row_bytes <= limit;
    if (cached) shared += 2 * row_bytes;
    launch(vector ? backward_block_kernel<T, true> : backward_block_kernel<T, false>, 1,
           threads_for_row(o.size, vector ? cuda::kVectorSize<T> : 1), shared,
           own_sums && wants_sums, cached);
  }
  if (!wants_sums) return;
  const auto separate = [&](const Tensor& gw, const Tensor& gb) {
    add_partials_cuda(o.op, partials, gw, gb);
  };
  if (b.gw.defined() && b.gb.defined() && b.gw.dtype() != b.gb.dtype()) {
    separate(b.gw, {});
    separate({}, b.gb);
  } else {
    separate(b.gw, b.gb);
  }
}

}  // namespace

void add_partials_cuda(std::string_view op, const Tensor& partials, const Tensor& gw,
                       const Tensor& gb) {
  if (partials.size(2) == 0 || (!gw.defined() && !gb.defined())) return;
  const DType dtype = gw.defined() ? gw.dtype() : gb.dtype();
  cuda::visit_floating(op, dtype,
                       [&]<class W>() { add_partials<Compute<W>, W>(op, partials, gw, gb); });
}

void norm_rows_cuda(const NormRows& rows, const NormRows::Forward& f) {
  if (f.x.numel() == 0) return;
  cuda::visit_floating(rows.op, f.x.dtype(), [&]<class T>() { run<T>(rows, f); });
}

void norm_rows_backward_cuda(const NormRows& rows, const NormRows::Backward& b) {
  if (b.s.numel() == 0) {
    if (b.gw.defined()) kernels::fill(b.gw, 0);
    if (b.gb.defined()) kernels::fill(b.gb, 0);
    return;
  }
  cuda::visit_floating(rows.op, b.s.dtype(), [&]<class T>() { run_back<T>(rows, b); });
}

}  // namespace tessera::detail
