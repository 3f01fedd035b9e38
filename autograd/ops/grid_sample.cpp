#include "tessera/autograd/ops/grid_sample.h"

#include "tessera/autograd/op.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/grid_points.h"
#include "tessera/autograd/ops/grid_sample_cuda.h"
#include "tessera/autograd/ops/plane_gather.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/registry.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/parallel.h"
#include "tessera/core/view.h"

namespace tessera {
namespace {

using detail::Corners;
using detail::corners_of;
using detail::locate;
using detail::Position;

struct GridSample {
  static constexpr std::string_view name = "grid_sample";
  GridSampleOptions options;

  Tensor forward(Forward&, const Tensor& x, const Tensor& grid) const {
    const Tensor image = kernels::contiguous(x);
    const Tensor y =
        empty({x.size(0), x.size(1), grid.size(1), grid.size(2)}, {x.dtype(), x.device()});
    if constexpr (kCuda) {
      if (x.device().is_cuda()) {
        grid_sample_cuda(options, image, kernels::contiguous(grid), y);
        return y;
      }
    }
    visit_floating(name, x.dtype(), [&]<class T>() {
      const auto all = corners<T>(x, grid);
      const int64_t points = grid.size(1) * grid.size(2);
      const int64_t plane = x.size(2) * x.size(3);
      parallel_for(x.size(0) * x.size(1), 4 * y.numel(), [&](int64_t p) {
        const T* from = image.data<T>() + p * plane;
        T* to = y.data<T>() + p * points;
        const Corners<T>* c = all.data() + p / x.size(1) * points;
        for (int64_t i = 0; i < points; ++i) {
          T sum = 0;
          for (int k = 0; k < 4; ++k) {
            if (c[i].index[k] >= 0) sum += c[i].weight[k] * from[c[i].index[k]];
          }
          to[i] = sum;
        }
      });
    });
    return y;
  }

  void backward(Backward& b) const {
    const Tensor x = kernels::contiguous(b.input(0));
    const Tensor grid = b.input(1);
    const Tensor g = kernels::contiguous(b.grad());
    if constexpr (kCuda) {
      if (x.device().is_cuda()) {
        const Tensor points = kernels::contiguous(grid);
        if (b.needs(0)) b.add(0, grid_sample_image_gradient_cuda(options, x, points, g));
        if (b.needs(1)) b.add(1, grid_sample_point_gradient_cuda(options, x, points, g));
        return;
      }
    }
    visit_floating(name, x.dtype(), [&]<class T>() {
      const auto all = corners<T>(x, grid);
      if (b.needs(0)) b.add(0, image_gradient(x, g, all));
      if (b.needs(1)) b.add(1, point_gradient(x, grid.shape(), g, all));
    });
  }

  // The corners are constants, the bilinear weights functions of the grid.
  Tensor definition(const TensorList& in) const {
    const Frozen f = frozen(in[0], in[1]);
    if (nearest()) return plane_gather(in[0], f.index[0]);
    Tensor fraction[2];
    for (int a = 0; a < 2; ++a) {
      const Tensor coordinate = reshape(select(in[1], -1, a), f.slope[a].shape());
      fraction[a] = coordinate * f.slope[a] + f.shift[a];
    }
    Tensor y;
    for (int k = 0; k < 4; ++k) {
      const Tensor wx = k % 2 ? fraction[0] : 1 - fraction[0];
      const Tensor wy = k / 2 ? fraction[1] : 1 - fraction[1];
      const Tensor part = plane_gather(in[0], f.index[k]) * (wx * wy);
      y = y.defined() ? y + part : part;
    }
    return y;
  }

 private:
  bool nearest() const { return options.mode == Interpolation::nearest; }

  // What the definition takes as constant, each (B, 1, Ho, Wo): the corners, and the place between
  // them, slope · coordinate + shift.
  struct Frozen {
    Tensor index[4];
    Tensor slope[2];
    Tensor shift[2];
  };
  Frozen frozen(const Tensor& x, const Tensor& grid) const {
    const Shape points{grid.size(0), 1, grid.size(1), grid.size(2)};
    const Tensor plain = kernels::contiguous(kernels::cast(grid.detach(), DType::f64));
    Frozen f;
    if constexpr (kCuda) {
      if (x.device().is_cuda()) {
        const GridCornersCuda c = grid_corners_cuda(options, x.size(2), x.size(3), plain);
        for (int k = 0; k < 4; ++k)
          f.index[k] = views::reshape(views::select(c.index, -1, k), points);
        for (int a = 0; a < 2; ++a) {
          f.slope[a] = views::reshape(views::select(c.slope, -1, a), points).to(x.dtype());
          f.shift[a] = views::reshape(views::select(c.shift, -1, a), points).to(x.dtype());
        }
        return f;
      }
    }
    for (Tensor& t : f.index) t = empty(points, {DType::i64, {}});
    for (Tensor& t : f.slope) t = empty(points, {DType::f64, {}});
    for (Tensor& t : f.shift) t = empty(points, {DType::f64, {}});
    for (int64_t i = 0; i < points.numel(); ++i) {
      const double* at = plain.data<double>() + 2 * i;
      const Position p[2] = {locate(at[0], x.size(3), options), locate(at[1], x.size(2), options)};
      const auto c = corners_of<double>(p[0], p[1], x.size(2), x.size(3), nearest());
      for (int k = 0; k < 4; ++k) f.index[k].data<int64_t>()[i] = c.index[k];
      for (int a = 0; a < 2; ++a) {
        const double moved = p[a].slope == 0 ? 0 : p[a].slope * at[a];
        f.slope[a].data<double>()[i] = p[a].slope;
        f.shift[a].data<double>()[i] = p[a].value - std::floor(p[a].value) - moved;
      }
    }
    for (Tensor& t : f.slope) t = t.to(x.dtype());
    for (Tensor& t : f.shift) t = t.to(x.dtype());
    return f;
  }

  template <class T>
  std::vector<Corners<T>> corners(const Tensor& x, const Tensor& grid) const {
    const Tensor points = kernels::contiguous(grid);
    std::vector<Corners<T>> list(static_cast<size_t>(grid.numel() / 2));
    parallel_ranges(grid.numel() / 2, kGrain / 8, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const T* at = points.data<T>() + 2 * i;
        list[static_cast<size_t>(i)] =
            corners_of<T>(locate(static_cast<double>(at[0]), x.size(3), options),
                          locate(static_cast<double>(at[1]), x.size(2), options), x.size(2),
                          x.size(3), nearest());
      }
    });
    return list;
  }

  template <class T>
  static Tensor image_gradient(const Tensor& x, const Tensor& g,
                               const std::vector<Corners<T>>& all) {
    const Tensor gx = zeros_like(x);
    const int64_t points = g.size(2) * g.size(3);
    const int64_t plane = x.size(2) * x.size(3);
    parallel_for(x.size(0) * x.size(1), 4 * g.numel(), [&](int64_t p) {
      const T* from = g.data<T>() + p * points;
      T* to = gx.data<T>() + p * plane;
      const Corners<T>* c = all.data() + p / x.size(1) * points;
      for (int64_t i = 0; i < points; ++i) {
        for (int k = 0; k < 4; ++k) {
          if (c[i].index[k] >= 0) to[c[i].index[k]] += c[i].weight[k] * from[i];
        }
      }
    });
    return gx;
  }

  template <class T>
  static Tensor point_gradient(const Tensor& x, const Shape& shape, const Tensor& g,
                               const std::vector<Corners<T>>& all) {
    const Tensor result = empty(shape, {x.dtype(), x.device()});
    const int64_t points = g.size(2) * g.size(3);
    const int64_t plane = x.size(2) * x.size(3);
    const int64_t channels = x.size(1);
    parallel_for(x.size(0) * points, 4 * g.numel(), [&](int64_t i) {
      const Corners<T>& c = all[static_cast<size_t>(i)];
      const int64_t first = i / points * channels;
      T sum[2] = {0, 0};
      for (int64_t p = first; p < first + channels; ++p) {
        const T* image = x.data<T>() + p * plane;
        const T grad = g.data<T>()[p * points + i % points];
        for (int k = 0; k < 4; ++k) {
          if (c.index[k] < 0) continue;
          sum[0] += grad * c.dx[k] * image[c.index[k]];
          sum[1] += grad * c.dy[k] * image[c.index[k]];
        }
      }
      result.data<T>()[2 * i] = sum[0];
      result.data<T>()[2 * i + 1] = sum[1];
    });
    return result;
  }
};

std::vector<OpSample> grid_samples() {
  std::vector<OpSample> list;
  const auto add = [&list](const std::string& label, const TensorList& inputs,
                           const GridSampleOptions& options) {
    list.push_back(
        {label, inputs,
         [=](const TensorList& in) { return TensorList{grid_sample(in[0], in[1], options)}; },
         [=](const TensorList& in) { return TensorList{GridSample{options}.definition(in)}; }});
  };
  const Tensor x = samples::normal({2, 2, 3, 4});
  const Tensor grid = samples::uniform({2, 2, 3, 2}, -1.6, 1.6);
  for (const auto mode : {Interpolation::bilinear, Interpolation::nearest}) {
    for (const auto padding : {GridPadding::zeros, GridPadding::border, GridPadding::reflection}) {
      for (const bool corners : {false, true}) {
        add(fmt::format("mode {}, padding {}, corners {}", static_cast<int>(mode),
                        static_cast<int>(padding), corners),
            {x, grid}, {mode, padding, corners});
      }
    }
  }
  add("strided", {samples::strided(x), samples::strided(grid)}, {});
  add("one pixel", {samples::normal({1, 1, 1, 1}), samples::uniform({1, 2, 2, 2}, -1.6, 1.6)},
      {.padding = GridPadding::reflection, .align_corners = true});
  add("no samples", {samples::normal({0, 2, 3, 3}), samples::normal({0, 2, 2, 2})}, {});
  return list;
}

const RegisterOp row{{
    .name = "grid_sample",
    .formula = "y[b, c, i, j] = x[b, c] interpolated at grid[b, i, j]",
    .source = "Jaderberg et al. 2015, Spatial Transformer Networks",
    .samples = grid_samples,
    .wrong_calls = {[] {
                      grid_sample(samples::normal({1, 1, 2, 2}), samples::normal({1, 2, 2}));
                    },
                    [] {
                      grid_sample(samples::normal({2, 2}), samples::normal({1, 2, 2, 2}));
                    },
                    [] {
                      grid_sample(samples::normal({1, 1, 2, 2}), samples::normal({2, 2, 2, 2}));
                    },
                    [] {
                      grid_sample(samples::normal({1, 1, 0, 2}), samples::normal({1, 2, 2, 2}));
                    },
                    [] {
                      grid_sample(samples::normal({1, 1, 2, 2}), samples::normal({1, 2, 2, 2}),
                                  {.mode = Interpolation::bicubic});
                    }},
}};

}  // namespace

Tensor grid_sample(const Tensor& x, const Tensor& grid, const GridSampleOptions& options) {
  check(x.rank() == 4 && grid.rank() == 4 && grid.size(3) == 2 && grid.size(0) == x.size(0),
        "grid_sample: wants x (B, C, H, W) and grid (B, Ho, Wo, 2), got {} and {}", x.shape(),
        grid.shape());
  check(x.size(2) >= 1 && x.size(3) >= 1, "grid_sample: the images of x {} are empty", x.shape());
  check(grid.dtype() == x.dtype() && grid.device() == x.device(),
        "grid_sample: grid is {} on {}, but x is {} on {}; convert one with to()", grid.dtype(),
        grid.device(), x.dtype(), x.device());
  check(options.mode != Interpolation::bicubic,
        "grid_sample: bicubic is not among its modes; use "
        "bilinear or nearest");
  return apply(GridSample{options}, x, grid);
}

}  // namespace tessera
