#include "tessera/autograd/ops/grid_points.h"
#include "tessera/autograd/ops/grid_sample_cuda.h"
#include "tessera/autograd/ops/plane_gather_cuda.h"
#include "tessera/core/create.h"
#include "tessera/core/cuda/kernel.h"
#include "tessera/core/cuda/runtime.h"

namespace tessera {
namespace {

constexpr unsigned kThreads = 128;
constexpr int64_t kChannels = 16;  // that one thread reads at its point

struct Image {
  int64_t channels, height, width;
  int64_t points;  // per sample
  GridSampleOptions options;

  Image(const GridSampleOptions& o, const Tensor& x, const Tensor& grid)
      : channels(x.size(1)),
        height(x.size(2)),
        width(x.size(3)),
        points(grid.size(1) * grid.size(2)),
        options(o) {}

  template <class C, class T>
  __device__ detail::Corners<C> corners(const T* grid, int64_t point) const {
    const auto at = [&](int k) {
      return static_cast<double>(convert<cuda::Compute<T>>(grid[2 * point + k]));
    };
    return detail::corners_of<C>(detail::locate(at(0), width, options),
                                 detail::locate(at(1), height, options), height, width,
                                 options.mode == Interpolation::nearest);
  }
};

template <class T>
__global__ void sample_kernel(Image image, int64_t count, const T* x, const T* grid, T* y) {
  using C = cuda::Compute<T>;
  const int64_t point = cuda::thread_index();
  if (point >= count) return;
  const auto c = image.template corners<C>(grid, point);
  const int64_t sample = point / image.points;
  const int64_t plane = image.height * image.width;
  for (int64_t group = blockIdx.y; group * kChannels < image.channels; group += gridDim.y) {
    const int64_t end = min(image.channels, (group + 1) * kChannels);
    for (int64_t channel = group * kChannels; channel < end; ++channel) {
      const T* from = x + (sample * image.channels + channel) * plane;
      C sum = 0;
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        if (c.index[k] >= 0) sum += c.weight[k] * convert<C>(from[c.index[k]]);
      }
      y[(sample * image.channels + channel) * image.points + point - sample * image.points] =
          convert<T>(sum);
    }
  }
}

template <class T>
__global__ void point_gradient_kernel(Image image, int64_t count, const T* x, const T* grid,
                                      const T* gy, T* gradient) {
  using C = cuda::Compute<T>;
  const int64_t point = cuda::thread_index();
  if (point >= count) return;
  const auto c = image.template corners<C>(grid, point);
  const int64_t sample = point / image.points;
  const int64_t plane = image.height * image.width;
  C sum[2] = {0, 0};
  for (int64_t channel = 0; channel < image.channels; ++channel) {
    const int64_t p = sample * image.channels + channel;
    const T* from = x + p * plane;
    const C g = convert<C>(gy[p * image.points + point - sample * image.points]);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (c.index[k] < 0) continue;
      const C value = g * convert<C>(from[c.index[k]]);
      sum[0] += c.dx[k] * value;
      sum[1] += c.dy[k] * value;
    }
  }
  gradient[2 * point] = convert<T>(sum[0]);
  gradient[2 * point + 1] = convert<T>(sum[1]);
}

template <class T>
__global__ void weight_kernel(Image image, int64_t count, const T* grid, int64_t* index,
                              cuda::Compute<T>* weight) {
  const int64_t point = cuda::thread_index();
  if (point >= count) return;
  const auto c = image.template corners<cuda::Compute<T>>(grid, point);
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    index[4 * point + k] = c.index[k];
    weight[4 * point + k] = c.weight[k];
  }
}

__global__ void corner_kernel(GridSampleOptions options, int64_t height, int64_t width,
                              int64_t count, const double* grid, int64_t* index, double* slope,
                              double* shift) {
  const int64_t point = cuda::thread_index();
  if (point >= count) return;
  const double at[2] = {grid[2 * point], grid[2 * point + 1]};
  const detail::Position p[2] = {detail::locate(at[0], width, options),
                                 detail::locate(at[1], height, options)};
  const auto c =
      detail::corners_of<double>(p[0], p[1], height, width, options.mode == Interpolation::nearest);
#pragma unroll
  for (int k = 0; k < 4; ++k) index[4 * point + k] = c.index[k];
#pragma unroll
  for (int a = 0; a < 2; ++a) {
    const double moved = p[a].slope == 0 ? 0 : p[a].slope * at[a];
    slope[2 * point + a] = p[a].slope;
    shift[2 * point + a] = p[a].value - std::floor(p[a].value) - moved;
  }
}

unsigned blocks_of(int64_t points) {
  check(points < int64_t{1} << 38, "grid_sample: {} points are too many for CUDA", points);
  return static_cast<unsigned>((points + kThreads - 1) / kThreads);
}

}  // namespace

void grid_sample_cuda(const GridSampleOptions& options, const Tensor& x, const Tensor& grid,
                      const Tensor& y) {
  if (y.numel() == 0) return;
  const int64_t count = grid.numel() / 2;
  const int64_t groups = (x.size(1) + kChannels - 1) / kChannels;
  const dim3 blocks(blocks_of(count), static_cast<unsigned>(std::min<int64_t>(groups, 65535)));
  cuda::visit_floating("grid_sample", x.dtype(), [&]<class T>() {
    cuda::launch("grid_sample", x.device(), sample_kernel<T>, blocks, kThreads, 0,
                 Image(options, x, grid), count, cuda::data<T>(x), cuda::data<T>(grid),
                 cuda::data<T>(y));
  });
}

Tensor grid_sample_image_gradient_cuda(const GridSampleOptions& options, const Tensor& x,
                                       const Tensor& grid, const Tensor& gy) {
  const int64_t count = grid.numel() / 2;
  const Shape shape{grid.size(0), 1, grid.size(1), grid.size(2), 4};
  const Tensor index = empty(shape, {DType::i64, x.device()});
  const Tensor gx = empty_like(x);
  cuda::visit_floating("grid_sample", x.dtype(), [&]<class T>() {
    using C = cuda::Compute<T>;
    const Tensor weight = empty(shape, {dtype_of<C>(), x.device()});
    cuda::launch("grid_sample", x.device(), weight_kernel<T>, blocks_of(count), kThreads, 0,
                 Image(options, x, grid), count, cuda::data<T>(grid), cuda::data<int64_t>(index),
                 cuda::data<C>(weight));
    plane_scatter_cuda(gy, index, weight, 4, gx);
  });
  return gx;
}

Tensor grid_sample_point_gradient_cuda(const GridSampleOptions& options, const Tensor& x,
                                       const Tensor& grid, const Tensor& gy) {
  const int64_t count = grid.numel() / 2;
  const Tensor gradient = empty(grid.shape(), {x.dtype(), x.device()});
  cuda::visit_floating("grid_sample", x.dtype(), [&]<class T>() {
    cuda::launch("grid_sample", x.device(), point_gradient_kernel<T>, blocks_of(count), kThreads, 0,
                 Image(options, x, grid), count, cuda::data<T>(x), cuda::data<T>(grid),
                 cuda::data<T>(gy), cuda::data<T>(gradient));
  });
  return gradient;
}

GridCornersCuda grid_corners_cuda(const GridSampleOptions& options, int64_t height, int64_t width,
                                  const Tensor& grid) {
  const int64_t count = grid.numel() / 2;
  Shape four = grid.shape();
  four.back() = 4;
  const GridCornersCuda c{empty(four, {DType::i64, grid.device()}),
                          empty(grid.shape(), {DType::f64, grid.device()}),
                          empty(grid.shape(), {DType::f64, grid.device()})};
  cuda::launch("grid_sample", grid.device(), corner_kernel, blocks_of(count), kThreads, 0, options,
               height, width, count, cuda::data<double>(grid), cuda::data<int64_t>(c.index),
               cuda::data<double>(c.slope), cuda::data<double>(c.shift));
  return c;
}

}  // namespace tessera
