#include "tessera/autograd/ops/softmax_cuda.h"
#include "tessera/autograd/ops/softmax_rows_cuda.h"
#include "tessera/core/create.h"

namespace tessera {
namespace {

template <class T, int V, bool kLog>
__global__ void softmax_kernel(const T* x, T* y, int64_t rows, int64_t n, bool cached) {
  using C = cuda::Compute<T>;
  __shared__ C scratch[cuda::kWarp];
  extern __shared__ __align__(16) unsigned char memory[];
  const int64_t row = cuda::row_of_thread();
  if (row >= rows) return;
  T* kept = reinterpret_cast<T*>(memory);
  const T* from = x + row * n;
  T* to = y + row * n;
  const auto [shift, total] =
      cuda::row_exponentials<T, V>(from, n, scratch, [&](int64_t i, const cuda::Vector<T, V>& v) {
        if (cached) cuda::store(kept + i, v);
      });
  // A row of −∞ has the total 0: zeros, or the row as it is.
  const C by = kLog ? (total == C(0) ? C(0) : ::log(total)) : (total == C(0) ? C(0) : 1 / total);
  const C start = shift;
  cuda::for_each_piece<T, V>(cached ? kept : from, n, [&](int64_t i, cuda::Vector<T, V> piece) {
#pragma unroll
    for (int k = 0; k < V; ++k) {
      const C value = convert<C>(piece[k]) - start;
      piece[k] = convert<T>(kLog ? value - by : cuda::exponential<T>(value) * by);
    }
    cuda::store(to + i, piece);
  });
}

// The gradient needs one sum over the row: Σ g y, or Σ g. For the logarithm y is what softmax got,
// since a half that holds log p is too coarse for p.
template <class T, int V, bool kLog>
__global__ void backward_kernel(const T* y, const T* g, T* gx, int64_t rows, int64_t n,
                                bool cached) {
  using C = cuda::Compute<T>;
  __shared__ C scratch[cuda::kWarp];
  extern __shared__ __align__(16) unsigned char memory[];
  const int64_t row = cuda::row_of_thread();
  if (row >= rows) return;
  T* kept_y = reinterpret_cast<T*>(memory);
  T* kept_g = kept_y + n;
  const T* from_y = y + row * n;
  const T* from_g = g + row * n;
  T* to = gx + row * n;
  const C lowest = -math::detail::kInfinity<C>;
  C total = 0, highest = lowest;  // the sum, the row's maximum
  cuda::for_each_piece<T, V>(from_y, n, [&](int64_t i, const cuda::Vector<T, V>& p) {
    const auto q = cuda::load<V>(from_g + i);
    if (cached) {
      cuda::store(kept_y + i, p);
      cuda::store(kept_g + i, q);
    }
#pragma unroll
    for (int k = 0; k < V; ++k) {
      const C value = convert<C>(p[k]);
      total += kLog ? convert<C>(q[k]) : value * convert<C>(q[k]);
      highest = value > highest ? value : highest;
    }
  });
  total = cuda::block_reduce(total, cuda::Sum{}, C(0), scratch);
  if (kLog) highest = cuda::block_reduce(highest, cuda::Max{}, lowest, scratch);
  const bool dead = kLog && highest == lowest;  // a row of −∞
  C scale = 1;
  if (kLog && !dead) {
    C exponentials = 0;
    cuda::for_each_piece<T, V>(cached ? kept_y : from_y, n,
                               [&](int64_t, const cuda::Vector<T, V>& p) {
#pragma unroll
                                 for (int k = 0; k < V; ++k) {
                                   exponentials += cuda::exponential<T>(convert<C>(p[k]) - highest);
                                 }
                               });
    scale = 1 / cuda::block_reduce(exponentials, cuda::Sum{}, C(0), scratch);
  }
  const T* again_g = cached ? kept_g : from_g;
  cuda::for_each_piece<T, V>(
      cached ? kept_y : from_y, n, [&](int64_t i, const cuda::Vector<T, V>& p) {
        auto q = cuda::load<V>(again_g + i);
#pragma unroll
        for (int k = 0; k < V; ++k) {
          const C value = convert<C>(p[k]), grad = convert<C>(q[k]);
          q[k] = convert<T>(
              kLog ? (dead ? C(0) : grad - cuda::exponential<T>(value - highest) * scale * total)
                   : value * (grad - total));
        }
        cuda::store(to + i, q);
      });
}

template <bool kLog>
void launch_forward(const Tensor& x, const Tensor& y, int64_t rows, int64_t n) {
  cuda::visit_floating("softmax", x.dtype(), [&]<class T>() {
    const T* from = cuda::data<T>(x);
    T* to = cuda::data<T>(y);
    cuda::visit_width<T>(n, {from, to}, [&]<int V>() {
      const auto at = cuda::row_launch(x.device(), rows, n, static_cast<size_t>(n) * sizeof(T));
      cuda::launch("softmax", x.device(), softmax_kernel<T, V, kLog>, at.grid, at.block, at.shared,
                   from, to, rows, n, at.cached);
    });
  });
}

template <bool kLog>
void launch_backward(const Tensor& y, const Tensor& g, const Tensor& gx, int64_t rows, int64_t n) {
  cuda::visit_floating("softmax", y.dtype(), [&]<class T>() {
    const T* p = cuda::data<T>(y);
    const T* q = cuda::data<T>(g);
    T* to = cuda::data<T>(gx);
    cuda::visit_width<T>(n, {p, q, to}, [&]<int V>() {
      const auto at = cuda::row_launch(y.device(), rows, n, 2 * static_cast<size_t>(n) * sizeof(T));
      cuda::launch("softmax", y.device(), backward_kernel<T, V, kLog>, at.grid, at.block, at.shared,
                   p, q, to, rows, n, at.cached);
    });
  });
}

}  // namespace

Tensor softmax_cuda(const Tensor& x, bool log) {
  const Tensor y = empty_like(x);
  if (x.numel() == 0) return y;
  const int64_t n = x.size(-1), rows = x.numel() / n;
  log ? launch_forward<true>(x, y, rows, n) : launch_forward<false>(x, y, rows, n);
  return y;
}

Tensor softmax_backward_cuda(const Tensor& y, const Tensor& g, bool log) {
  const Tensor gx = empty_like(y);
  if (y.numel() == 0) return gx;
  const int64_t n = y.size(-1), rows = y.numel() / n;
  log ? launch_backward<true>(y, g, gx, rows, n) : launch_backward<false>(y, g, gx, rows, n);
  return gx;
}

}  // namespace tessera
