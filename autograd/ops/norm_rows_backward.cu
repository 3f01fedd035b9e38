#include "tessera/autograd/ops/norm_rows_kernel.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/kernels/fill.h"

namespace tessera::detail {
namespace {

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

template <class T, int E, bool kVector>
constexpr int kBackwardWarps = warps_that_fit<T, E, kVector, 3, 3>();

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

// A block per row.
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

void norm_rows_backward_cuda(const NormRows& rows, const NormRows::Backward& b) {
  if (b.s.numel() == 0) {
    if (b.gw.defined()) kernels::fill(b.gw, 0);
    if (b.gb.defined()) kernels::fill(b.gb, 0);
    return;
  }
  cuda::visit_floating(rows.op, b.s.dtype(), [&]<class T>() { run_back<T>(rows, b); });
}

}  // namespace tessera::detail
