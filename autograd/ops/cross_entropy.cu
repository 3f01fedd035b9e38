#include <cstdio>

#include "tessera/autograd/ops/cross_entropy_cuda.h"
#include "tessera/autograd/ops/softmax_rows_cuda.h"
#include "tessera/core/create.h"

namespace tessera::detail {
namespace {

constexpr std::string_view kName = "cross_entropy";

// The target distribution is (1 − epsilon) 1[target] + epsilon / n.
struct Rows {
  const int64_t* targets;
  int64_t rows;
  int64_t n;
  int64_t ignored;
  double epsilon;
};

Rows rows_of(const Tensor& logits, const Tensor& targets, const CrossEntropyOptions& options) {
  return {cuda::data<int64_t>(targets), targets.numel(), logits.size(-1), options.ignore_index,
          options.label_smoothing};
}

__device__ void check_target(const Rows& r, int64_t row, int64_t target) {
  if (target >= 0 && target < r.n) return;
  if (threadIdx.x == 0) {
    printf("cross_entropy: target %lld of row %lld is not in [0, %lld)\n",
           static_cast<long long>(target), static_cast<long long>(row),
           static_cast<long long>(r.n));
  }
  __trap();
}

// factor (p − q) of a piece that begins at column i; p = exp(x − shift) · share.
template <class T, int V>
__device__ cuda::Vector<T, V> gradient_piece(const cuda::Vector<T, V>& x, int64_t i, int64_t target,
                                             cuda::Compute<T> shift, cuda::Compute<T> share,
                                             cuda::Compute<T> factor, cuda::Compute<T> uniform,
                                             cuda::Compute<T> at_target) {
  using C = cuda::Compute<T>;
  cuda::Vector<T, V> g;
#pragma unroll
  for (int k = 0; k < V; ++k) {
    const C p = cuda::exponential<T>(convert<C>(x[k]) - shift) * share;
    g[k] = convert<T>(i + k == target ? at_target : factor * (p - uniform));
  }
  return g;
}

// One read of a row; with gradients one write over it, from what shared memory has kept.
template <class T, int V, bool kGradient>
__global__ void loss_kernel(Rows r, T* logits, double* losses, double* lse, const double* scale,
                            bool cached) {
  using C = cuda::Compute<T>;
  __shared__ C scratch[cuda::kWarp];
  extern __shared__ __align__(16) unsigned char memory[];
  const int64_t row = cuda::row_of_thread();
  if (row >= r.rows) return;
  T* x = logits + row * r.n;
  T* kept = reinterpret_cast<T*>(memory);
  const int64_t target = r.targets[row];
  if (target == r.ignored) {
    if (threadIdx.x == 0) {
      losses[row] = 0;
      if (lse != nullptr) lse[row] = 0;
    }
    if constexpr (kGradient) {
      const cuda::Vector<T, V> zero = {};
      for (int64_t i = static_cast<int64_t>(threadIdx.x) * V; i < r.n; i += blockDim.x * V) {
        cuda::store(x + i, zero);
      }
    }
    return;
  }
  check_target(r, row, target);
  const C chosen = convert<C>(x[target]);
  __syncwarp();  // read by all before anybody writes; a block meets in the reductions
  C sum = 0;
  const auto [shift, total] =
      cuda::row_exponentials<T, V>(x, r.n, scratch, [&](int64_t i, const cuda::Vector<T, V>& v) {
        if (kGradient && cached) cuda::store(kept + i, v);
        if (r.epsilon > 0) {
#pragma unroll
          for (int k = 0; k < V; ++k) sum += convert<C>(v[k]);
        }
      });
  if (r.epsilon > 0) sum = cuda::block_reduce(sum, cuda::Sum{}, C(0), scratch);
  if (threadIdx.x == 0) {
    const double all = static_cast<double>(shift) + ::log(static_cast<double>(total));
    double loss = (1 - r.epsilon) * (all - static_cast<double>(chosen));
    if (r.epsilon > 0) {
      loss += r.epsilon * (all - static_cast<double>(sum) / static_cast<double>(r.n));
    }
    const bool impossible = chosen == -math::detail::kInfinity<C>;
    losses[row] = loss != loss && impossible ? math::detail::kInfinity<double> : loss;
    if (lse != nullptr) lse[row] = all;
  }
  if constexpr (kGradient) {
    const C factor = static_cast<C>(*scale);
    const C uniform = static_cast<C>(r.epsilon / static_cast<double>(r.n));
    const C at_target =
        factor * (::expm1(chosen - shift - ::log(total)) + (static_cast<C>(r.epsilon) - uniform));
    const T* again = cached ? kept : x;
    for (int64_t i = static_cast<int64_t>(threadIdx.x) * V; i < r.n; i += blockDim.x * V) {
      const auto piece = cuda::load<V>(again + i);
      cuda::store(x + i, gradient_piece<T, V>(piece, i, target, shift, C(1) / total, factor,
                                              uniform, at_target));
    }
  }
}

template <class T, int V>
__global__ void backward_kernel(Rows r, T* gradient, const T* logits, const double* lse,
                                const double* g, bool each, const double* scale) {
  using C = cuda::Compute<T>;
  const int64_t row = cuda::row_of_thread();
  if (row >= r.rows) return;
  const int64_t target = r.targets[row];
  T* out = gradient + row * r.n;
  if (target == r.ignored) {
    const cuda::Vector<T, V> zero = {};
    for (int64_t i = static_cast<int64_t>(threadIdx.x) * V; i < r.n; i += blockDim.x * V) {
      cuda::store(out + i, zero);
    }
    return;
  }
  const T* x = logits + row * r.n;
  const C factor = static_cast<C>(*scale * g[each ? row : 0]);
  const C shift = static_cast<C>(lse[row]);
  const C uniform = static_cast<C>(r.epsilon / static_cast<double>(r.n));
  const C at_target =
      factor * (::expm1(convert<C>(x[target]) - shift) + (static_cast<C>(r.epsilon) - uniform));
  cuda::for_each_piece<T, V>(x, r.n, [&](int64_t i, const cuda::Vector<T, V>& piece) {
    cuda::store(out + i,
                gradient_piece<T, V>(piece, i, target, shift, C(1), factor, uniform, at_target));
  });
}

constexpr unsigned kOneBlock = 1024;

__global__ void scale_kernel(const int64_t* targets, int64_t n, int64_t ignored, bool mean,
                             double* scale) {
  __shared__ int64_t scratch[cuda::kWarp];
  int64_t valid = 0;
  for (int64_t i = threadIdx.x; mean && i < n; i += blockDim.x) valid += targets[i] != ignored;
  valid = cuda::block_reduce(valid, cuda::Sum{}, int64_t{0}, scratch);
  if (threadIdx.x == 0) *scale = valid > 0 ? 1 / static_cast<double>(valid) : 1;
}

template <class T>
__global__ void scaled_sum_kernel(const double* losses, int64_t n, const double* scale, T* result) {
  __shared__ double scratch[cuda::kWarp];
  double total = 0;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) total += losses[i];
  total = cuda::block_reduce(total, cuda::Sum{}, 0.0, scratch);
  if (threadIdx.x == 0) *result = convert<T>(total * *scale);
}

template <class T, int V>
__global__ void multiply_kernel(T* x, int64_t n, const T* factor) {
  using C = cuda::Compute<T>;
  const C by = convert<C>(*factor);
  if (by == C(1)) return;
  for (int64_t i = cuda::thread_index() * V; i < n; i += cuda::thread_count() * V) {
    auto piece = cuda::load<V>(x + i);
#pragma unroll
    for (int k = 0; k < V; ++k) piece[k] = convert<T>(convert<C>(piece[k]) * by);
    cuda::store(x + i, piece);
  }
}

template <bool kGradient>
void launch_losses(const Tensor& losses, double* lse, const Tensor& logits, const Tensor& targets,
                   const CrossEntropyOptions& options, const double* scale) {
  const Rows r = rows_of(logits, targets, options);
  if (r.rows == 0) return;
  cuda::visit_floating(kName, logits.dtype(), [&]<class T>() {
    T* x = cuda::data<T>(logits);
    cuda::visit_width<T>(r.n, {x}, [&]<int V>() {
      const size_t bytes = kGradient ? static_cast<size_t>(r.n) * sizeof(T) : SIZE_MAX / 2;
      const auto at = cuda::row_launch(logits.device(), r.rows, r.n, bytes);
      cuda::launch(kName, logits.device(), loss_kernel<T, V, kGradient>, at.grid, at.block,
                   at.shared, r, x, cuda::data<double>(losses), lse, scale, at.cached);
    });
  });
}

}  // namespace

Tensor loss_scale_cuda(const Tensor& targets, const CrossEntropyOptions& options) {
  const Tensor scale = empty({}, {DType::f64, targets.device()});
  cuda::launch(kName, targets.device(), scale_kernel, 1, kOneBlock, 0, cuda::data<int64_t>(targets),
               targets.numel(), options.ignore_index, options.reduction == Reduction::mean,
               cuda::data<double>(scale));
  return scale;
}

void row_losses_cuda(const Tensor& losses, const Tensor& lse, const Tensor& logits,
                     const Tensor& targets, const CrossEntropyOptions& options) {
  launch_losses<false>(losses, lse.defined() ? cuda::data<double>(lse) : nullptr, logits, targets,
                       options, nullptr);
}

void row_losses_to_gradients_cuda(const Tensor& losses, const Tensor& logits, const Tensor& targets,
                                  const CrossEntropyOptions& options, const Tensor& scale) {
  launch_losses<true>(losses, nullptr, logits, targets, options, cuda::data<double>(scale));
}

Tensor scaled_sum_cuda(const Tensor& losses, const Tensor& scale, DType dtype) {
  const Tensor result = empty({}, {dtype, losses.device()});
  cuda::visit_floating(kName, dtype, [&]<class T>() {
    cuda::launch(kName, losses.device(), scaled_sum_kernel<T>, 1, kOneBlock, 0,
                 cuda::data<double>(losses), losses.numel(), cuda::data<double>(scale),
                 cuda::data<T>(result));
  });
  return result;
}

void cross_entropy_backward_cuda(const Tensor& gx, const Tensor& logits, const Tensor& targets,
                                 const Tensor& lse, const Tensor& g, const Tensor& scale,
                                 const CrossEntropyOptions& options) {
  const Rows r = rows_of(logits, targets, options);
  if (r.rows == 0) return;
  cuda::visit_floating(kName, logits.dtype(), [&]<class T>() {
    const T* x = cuda::data<T>(logits);
    T* out = cuda::data<T>(gx);
    cuda::visit_width<T>(r.n, {x, out}, [&]<int V>() {
      const auto at = cuda::row_launch(logits.device(), r.rows, r.n, SIZE_MAX / 2);
      cuda::launch(kName, logits.device(), backward_kernel<T, V>, at.grid, at.block, 0, r, out, x,
                   cuda::data<double>(lse), cuda::data<double>(g),
                   options.reduction == Reduction::none, cuda::data<double>(scale));
    });
  });
}

void scale_cuda(const Tensor& x, const Tensor& factor) {
  constexpr unsigned kThreads = 256;
  if (x.numel() == 0) return;
  cuda::visit_floating(kName, x.dtype(), [&]<class T>() {
    T* data = cuda::data<T>(x);
    cuda::visit_width<T>(x.numel(), {data}, [&]<int V>() {
      cuda::launch(kName, x.device(), multiply_kernel<T, V>,
                   cuda::blocks_for(x.numel(), int64_t{kThreads} * V), kThreads, 0, data, x.numel(),
                   cuda::data<T>(factor));
    });
  });
}

}  // namespace tessera::detail
