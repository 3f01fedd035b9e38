#include "tessera/autograd/ops/pool_cuda.h"
#include "tessera/core/cuda/kernel.h"
#include "tessera/core/cuda/planes.h"
#include "tessera/core/cuda/window.h"

namespace tessera {
namespace {

// R dimensions; fewer get leading ones of size 1.
template <int R>
struct PoolWindows {
  int in[R], out[R], kernel[R], stride[R], padding[R], dilation[R];
  cuda::Divider by_in[R], by_out[R];
  unsigned plane = 1;
  unsigned positions = 1;

  explicit PoolWindows(const std::vector<PoolAxis>& axes) {
    const int lead = R - static_cast<int>(axes.size());
    for (int d = 0; d < R; ++d) {
      const PoolAxis axis = d < lead ? PoolAxis{} : axes[static_cast<size_t>(d - lead)];
      in[d] = static_cast<int>(axis.in);
      out[d] = static_cast<int>(axis.out);
      kernel[d] = static_cast<int>(axis.kernel);
      stride[d] = static_cast<int>(axis.stride);
      padding[d] = static_cast<int>(axis.padding);
      dilation[d] = static_cast<int>(axis.dilation);
      by_in[d] = cuda::Divider(static_cast<unsigned>(axis.in));
      by_out[d] = cuda::Divider(static_cast<unsigned>(axis.out));
      plane *= static_cast<unsigned>(axis.in);
      positions *= static_cast<unsigned>(axis.out);
    }
  }

  __device__ static void split(unsigned flat, const cuda::Divider (&by)[R], int (&index)[R]) {
#pragma unroll
    for (int d = R - 1; d > 0; --d) {
      const unsigned next = by[d].divide(flat);
      index[d] = static_cast<int>(flat - next * by[d].divisor);
      flat = next;
    }
    index[0] = static_cast<int>(flat);
  }

  // The elements start, start + dilation, … below stop that window i sees.
  __device__ void range(int d, int i, int& start, int& stop) const {
    if (stride[d] == 0) {
      start = static_cast<int>(int64_t{i} * in[d] / out[d]);
      stop = static_cast<int>((int64_t{i + 1} * in[d] + out[d] - 1) / out[d]);
      return;
    }
    start = i * stride[d] - padding[d];
    stop = min(in[d], start + dilation[d] * (kernel[d] - 1) + 1);
    if (start < 0) start += (dilation[d] - 1 - start) / dilation[d] * dilation[d];
  }
  // The windows first … last that may see element j.
  __device__ void windows(int d, int j, int& first, int& last) const {
    if (stride[d] == 0) {
      first = static_cast<int>(int64_t{j} * out[d] / in[d]);
      last = static_cast<int>((int64_t{j + 1} * out[d] + in[d] - 1) / in[d]) - 1;
      return;
    }
    const int nearest = j + padding[d];
    const int farthest = nearest - dilation[d] * (kernel[d] - 1);
    first = farthest <= 0 ? 0 : (farthest + stride[d] - 1) / stride[d];
    last = min(out[d] - 1, nearest / stride[d]);
  }
};

// fn(flat index) over a box, in row-major order.
template <int R, int D = 0, class Fn>
__device__ void scan(const int (&first)[R], const int (&stop)[R], const int (&step)[R],
                     const int (&size)[R], int flat, const Fn& fn) {
  if constexpr (D == R) {
    fn(flat);
  } else {
    for (int i = first[D]; i < stop[D]; i += step[D]) {
      scan<R, D + 1>(first, stop, step, size, flat * size[D] + i, fn);
    }
  }
}

template <class T, int R>
__global__ void max_pool_kernel(PoolWindows<R> w, int64_t planes, const T* x, T* y,
                                int64_t* index) {
  using C = cuda::Compute<T>;
  const unsigned position = cuda::plane_element();
  if (position >= w.positions) return;
  int at[R], start[R], stop[R];
  w.split(position, w.by_out, at);
#pragma unroll
  for (int d = 0; d < R; ++d) w.range(d, at[d], start[d], stop[d]);
  for (int64_t plane = cuda::first_plane(); plane < planes; plane += cuda::plane_step()) {
    const T* from = x + plane * w.plane;
    C best = 0;
    int where = -1;
    scan<R>(start, stop, w.dilation, w.in, 0, [&](int element) {
      const C value = convert<C>(from[element]);
      if (where >= 0 && !(value > best) && value == value) return;
      best = value;
      where = element;
    });
    y[plane * w.positions + position] = convert<T>(best);
    index[plane * w.positions + position] = where;
  }
}

template <class T, int R>
__global__ void max_pool_gradient_kernel(PoolWindows<R> w, int64_t planes, const T* gy,
                                         const int64_t* index, T* gx) {
  using C = cuda::Compute<T>;
  const unsigned element = cuda::plane_element();
  if (element >= w.plane) return;
  int at[R], first[R], stop[R], step[R];
  w.split(element, w.by_in, at);
#pragma unroll
  for (int d = 0; d < R; ++d) {
    w.windows(d, at[d], first[d], stop[d]);
    ++stop[d];
    step[d] = 1;
  }
  for (int64_t plane = cuda::first_plane(); plane < planes; plane += cuda::plane_step()) {
    const T* from = gy + plane * w.positions;
    const int64_t* chosen = index + plane * w.positions;
    C sum = 0;
    scan<R>(first, stop, step, w.out, 0, [&](int position) {
      if (chosen[position] == element) sum += convert<C>(from[position]);
    });
    gx[plane * w.plane + element] = convert<T>(sum);
  }
}

void check_sizes(std::string_view op, const Tensor& x, const Tensor& y) {
  const int64_t planes = x.size(0) * x.size(1);
  check(planes == 0 || std::max(x.numel(), y.numel()) / planes < int64_t{1} << 31,
        "{}: x {} has planes of more than 2^31 elements, too many for CUDA", op, x.shape());
}

}  // namespace

void max_pool_cuda(std::string_view op, const std::vector<PoolAxis>& axes, const Tensor& x,
                   const Tensor& y, const Tensor& index) {
  if (y.numel() == 0) return;
  check_sizes(op, x, y);
  const int64_t planes = x.size(0) * x.size(1);
  const cuda::PlaneGrid shape = cuda::plane_grid(op, planes, y.numel() / planes);
  cuda::visit_rank(static_cast<int64_t>(axes.size()), [&]<int R>() {
    cuda::visit_floating(op, x.dtype(), [&]<class T>() {
      cuda::launch(op, x.device(), max_pool_kernel<T, R>, shape.grid, shape.block, 0,
                   PoolWindows<R>(axes), planes, cuda::data<T>(x), cuda::data<T>(y),
                   cuda::data<int64_t>(index));
    });
  });
}

void max_pool_gradient_cuda(std::string_view op, const std::vector<PoolAxis>& axes,
                            const Tensor& gy, const Tensor& index, const Tensor& gx) {
  if (gx.numel() == 0) return;
  check_sizes(op, gx, gy);
  const int64_t planes = gx.size(0) * gx.size(1);
  const cuda::PlaneGrid shape = cuda::plane_grid(op, planes, gx.numel() / planes);
  cuda::visit_rank(static_cast<int64_t>(axes.size()), [&]<int R>() {
    cuda::visit_floating(op, gx.dtype(), [&]<class T>() {
      cuda::launch(op, gx.device(), max_pool_gradient_kernel<T, R>, shape.grid, shape.block, 0,
                   PoolWindows<R>(axes), planes, cuda::data<T>(gy), cuda::data<int64_t>(index),
                   cuda::data<T>(gx));
    });
  });
}

}  // namespace tessera
