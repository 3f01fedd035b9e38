#include "tessera/autograd/ops/norm_rows_kernel.h"
#include "tessera/core/kernels/copy.h"

namespace tessera::detail {
namespace {

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

template <class T, int E, bool kVector>
constexpr int kForwardWarps = warps_that_fit<T, E, kVector, 2, 2>();

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

// A block per row.
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

}  // namespace

void norm_rows_cuda(const NormRows& rows, const NormRows::Forward& f) {
  if (f.x.numel() == 0) return;
  cuda::visit_floating(rows.op, f.x.dtype(), [&]<class T>() { run<T>(rows, f); });
}

}  // namespace tessera::detail
