#include "tessera/autograd/ops/pool.h"

#include "tessera/autograd/op.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/axis_map.h"
#include "tessera/autograd/ops/plane_gather.h"
#include "tessera/autograd/ops/pool_cuda.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/registry.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/kernels/window.h"
#include "tessera/core/parallel.h"

namespace tessera {
namespace {

// The elements start, start + step, … below stop that one output sees along one dimension.
struct Range {
  int64_t start;
  int64_t stop;
  int64_t step;
};
using Ranges = std::vector<Range>;

Shape spatial(std::string_view op, const Tensor& x) {
  check(x.rank() >= 3, "{}: x must be (B, C, spatial…), got {}", op, x.shape());
  return Shape(std::span(x.shape().begin() + 2, x.shape().end()));
}

kernels::Window pool_window(std::string_view op, const Tensor& x, const Shape& kernel,
                            const Shape& stride, const Shape& padding, const Shape& dilation) {
  check(!kernel.empty(), "{}: kernel is empty; give one size per spatial dimension or one for all",
        op);
  const kernels::Window w = kernels::make_window(
      op, spatial(op, x), kernel, stride.empty() ? kernel : stride, padding, dilation);
  for (int64_t d = 0; d < w.in.rank(); ++d) {
    check(2 * w.padding[d] <= w.kernel[d], "{}: padding {} is more than half of kernel {}", op,
          w.padding, w.kernel);
  }
  return w;
}

Ranges ranges_of(std::string_view op, const kernels::Window& w, int64_t d) {
  Ranges list;
  for (int64_t i = 0; i < w.out[d]; ++i) {
    const int64_t step = w.dilation[d];
    int64_t start = i * w.stride[d] - w.padding[d];
    const int64_t stop = std::min(w.in[d], start + step * (w.kernel[d] - 1) + 1);
    while (start < 0) start += step;
    check(start < stop, "{}: kernel {} with dilation {} and padding {} sees only padding of {}", op,
          w.kernel, w.dilation, w.padding, w.in);
    list.push_back({start, stop, step});
  }
  return list;
}

Ranges adaptive_ranges(int64_t in, int64_t out) {
  Ranges list;
  for (int64_t i = 0; i < out; ++i)
    list.push_back({i * in / out, ((i + 1) * in + out - 1) / out, 1});
  return list;
}

Shape adaptive_size(std::string_view op, const Tensor& x, const Shape& size) {
  const Shape in = spatial(op, x);
  const Shape out = kernels::per_dimension(op, "size", size, in.rank(), 1);
  for (int64_t d = 0; d < in.rank(); ++d) {
    check(in[d] >= 1 && out[d] >= 1, "{}: cannot pool x {} to size {}", op, x.shape(), out);
  }
  return out;
}

// Rows of means; `divisor` 0 stands for the number of elements.
AxisTable mean_table(const Ranges& ranges, int64_t in, int64_t divisor) {
  AxisTable table;
  table.in = in;
  for (const Range& r : ranges) {
    const int64_t count = divisor > 0 ? divisor : r.stop - r.start;
    for (int64_t i = r.start; i < r.stop; ++i) table.add(i, 1 / static_cast<double>(count));
    table.end_row();
  }
  return table;
}

// Whether b replaces the maximum a: the first of equals stays, and NaN wins.
template <class T>
bool exceeds(T b, T a) {
  return static_cast<int>(b > a) | static_cast<int>(b != b);
}

// The last axis of a maximum: x (outer, in) → values and positions in all of x.
template <class T>
void max_lines(const Ranges& ranges, int64_t outer, int64_t in, const T* x, T* y, int64_t* to) {
  for (int64_t o = 0; o < outer; ++o) {
    for (const Range& r : ranges) {
      int64_t where = o * in + r.start;
      for (int64_t j = where + r.step; j < o * in + r.stop; j += r.step) {
        where += (j - where) * static_cast<int64_t>(exceeds(x[j], x[where]));  // without a branch
      }
      *y++ = x[where];
      *to++ = where;
    }
  }
}

// Another axis: x (outer, in, inner) with the positions that came along.
template <class T>
void max_planes(const Ranges& ranges, int64_t outer, int64_t in, int64_t inner, const T* x,
                const int64_t* from, T* y, int64_t* to) {
  for (int64_t o = 0; o < outer; ++o) {
    for (const Range& r : ranges) {
      const int64_t at = (o * in + r.start) * inner;
      std::copy(x + at, x + at + inner, y);
      std::copy(from + at, from + at + inner, to);
      for (int64_t j = r.start + r.step; j < r.stop; j += r.step) {
        const T* row = x + (o * in + j) * inner;
        const int64_t* index = from + (o * in + j) * inner;
#pragma omp simd
        for (int64_t i = 0; i < inner; ++i) {
          const bool better = exceeds(row[i], y[i]);
          y[i] = better ? row[i] : y[i];
          to[i] = better ? index[i] : to[i];
        }
      }
      y += inner;
      to += inner;
    }
  }
}

// On CUDA, the gradient of a maximum: elements gather from the windows around them.
struct MaxPoolGradient {
  static constexpr std::string_view name = "max_pool_gradient";
  std::vector<PoolAxis> axes;

  Tensor forward(Forward& f, const Tensor& g, const Tensor& index) const {
    Shape shape{g.size(0), g.size(1)};
    for (const PoolAxis& axis : axes) shape.push_back(axis.in);
    const Tensor gx = empty(shape, {g.dtype(), g.device()});
    if constexpr (kCuda) max_pool_gradient_cuda(name, axes, kernels::contiguous(g), index, gx);
    f.save(index);
    return gx;
  }
  void backward(Backward& b) const { b.add(0, plane_gather(b.grad(), b.saved(0))); }
};

// The maximum over a box is the maximum over one axis after the other: the last one first, so that
// among equals the first row wins, and in it the first element.
struct MaxPool {
  std::string_view name;
  std::vector<Ranges> axes;
  std::vector<PoolAxis> windows;  // the same, in few words
  Shape in;                       // spatial sizes

  TensorList forward(Forward& f, const Tensor& x) const {
    const Tensor source = kernels::contiguous(x);
    Shape shape{x.size(0), x.size(1)};
    for (const Ranges& ranges : axes) shape.push_back(static_cast<int64_t>(ranges.size()));
    const Tensor y = empty(shape, {x.dtype(), x.device()});
    const Tensor index = empty(shape, {DType::i64, x.device()});
    f.save(index);
    if constexpr (kCuda) {
      if (x.device().is_cuda()) {
        max_pool_cuda(name, windows, source, y, index);
        return {y, index};
      }
    }
    visit_floating(name, x.dtype(), [&]<class T>() { run<T>(source, y, index); });
    return {y, index};
  }
  void backward(Backward& b) const {
    const Tensor& g = b.grad();
    b.add(0, g.device().is_cuda() ? apply(MaxPoolGradient{windows}, g, b.saved(0))
                                  : plane_scatter(g, b.saved(0), in));
  }

 private:
  template <class T>
  void run(const Tensor& x, const Tensor& y, const Tensor& index) const {
    const int64_t plane = in.numel();
    const int64_t result = y.numel() / std::max<int64_t>(1, x.size(0) * x.size(1));
    parallel_for(x.size(0) * x.size(1), x.numel(), [&](int64_t p) {
      std::vector<T> values;
      std::vector<int64_t> at;
      Shape sizes = in;
      int64_t inner = 1;
      for (int64_t d = in.rank() - 1; d >= 0; --d) {
        const Ranges& ranges = axes[static_cast<size_t>(d)];
        const int64_t outer = sizes.numel() / (inner * in[d]);
        sizes[d] = static_cast<int64_t>(ranges.size());
        std::vector<T> best(static_cast<size_t>(sizes.numel()));
        std::vector<int64_t> where(best.size());
        if (d == in.rank() - 1) {
          max_lines(ranges, outer, in[d], x.data<T>() + p * plane, best.data(), where.data());
        } else {
          max_planes(ranges, outer, in[d], inner, values.data(), at.data(), best.data(),
                     where.data());
        }
        values = std::move(best);
        at = std::move(where);
        inner *= sizes[d];
      }
      std::copy(values.begin(), values.end(), y.data<T>() + p * result);
      std::copy(at.begin(), at.end(), index.data<int64_t>() + p * result);
    });
  }
};

MaxPoolResult max_over(std::string_view op, const Tensor& x, std::vector<Ranges> axes,
                       std::vector<PoolAxis> windows) {
  MaxPool pool{op, std::move(axes), std::move(windows), spatial(op, x)};
  const TensorList out = apply(pool, x);
  return {out[0], out[1]};
}

std::vector<OpSample> avg_samples() {
  const auto sample = [](const char* label, const Tensor& x, const Shape& kernel,
                         const AvgPoolOptions& options) {
    return OpSample{
        label,
        {x},
        [=](const TensorList& in) { return TensorList{avg_pool(in[0], kernel, options)}; },
        {}};
  };
  return {sample("2 × 3", samples::normal({2, 2, 4, 6}), {2, 3}, {}),
          sample("overlapping, padded", samples::normal({1, 2, 5, 5}), {3},
                 {.stride = {2, 1}, .padding = {1}}),
          sample("padding does not count", samples::normal({1, 2, 5, 4}), {3, 2},
                 {.stride = {2}, .padding = {1}, .count_include_pad = false}),
          sample("one dimension", samples::normal({2, 3, 7}), {3}, {.stride = {2}}),
          sample("three dimensions", samples::normal({1, 1, 2, 4, 3}), {2, 2, 1}, {}),
          sample("strided", samples::strided(samples::normal({2, 2, 4, 4})), {2}, {}),
          sample("no samples", samples::normal({0, 2, 4, 4}), {2}, {})};
}

std::vector<OpSample> max_samples() {
  const auto sample = [](const char* label, const Tensor& x, const Shape& kernel,
                         const MaxPoolOptions& options) {
    return OpSample{
        label,
        {x},
        [=](const TensorList& in) { return TensorList{max_pool(in[0], kernel, options)}; },
        {}};
  };
  return {
      sample("2 × 3", samples::normal({2, 2, 4, 6}), {2, 3}, {}),
      sample("overlapping, padded", samples::normal({1, 2, 5, 5}), {3},
             {.stride = {2, 1}, .padding = {1}}),
      sample("dilation", samples::normal({1, 2, 7, 6}), {3, 2}, {.stride = {1}, .dilation = {2}}),
      sample("one dimension", samples::normal({2, 3, 7}), {3}, {.stride = {2}}),
      sample("three dimensions", samples::normal({1, 1, 2, 4, 3}), {2, 2, 1}, {}),
      sample("strided", samples::strided(samples::normal({2, 2, 4, 4})), {2}, {}),
      sample("no samples", samples::normal({0, 2, 4, 4}), {2}, {})};
}

template <class Function>
std::vector<OpSample> adaptive_samples(const Function& f) {
  const auto sample = [&f](const char* label, const Tensor& x, const Shape& size) {
    return OpSample{
        label, {x}, [=](const TensorList& in) { return TensorList{f(in[0], size)}; }, {}};
  };
  return {sample("uneven bins", samples::normal({2, 2, 5, 7}), {2, 3}),
          sample("larger than the input", samples::normal({1, 2, 2, 3}), {4}),
          sample("one dimension", samples::normal({2, 2, 5}), {1}),
          sample("no samples", samples::normal({0, 2, 5, 7}), {2, 3})};
}

const RegisterOp avg_row{{
    .name = "avg_pool",
    .formula = "y[b, c, p] = mean of x[b, c] over window p",
    .source = "PyTorch's conventions",
    .samples = avg_samples,
    .wrong_calls = {[] {
                      avg_pool(samples::normal({2, 2}), {2});
                    },
                    [] {
                      avg_pool(samples::normal({1, 1, 2, 2}), {3});
                    },
                    [] {
                      avg_pool(samples::normal({1, 1, 2, 2}), {});
                    },
                    [] {
                      avg_pool(samples::normal({1, 1, 4, 4}), {2}, {.padding = {2}});
                    }},
}};

const RegisterOp max_row{{
    .name = "max_pool",
    .formula = "y[b, c, p] = max of x[b, c] over window p",
    .source = "PyTorch's conventions",
    .samples = max_samples,
    .wrong_calls = {[] {
                      max_pool(samples::normal({2, 2}), {2});
                    },
                    [] {
                      max_pool(samples::normal({1, 1, 2, 2}), {3});
                    },
                    [] {
                      max_pool(samples::normal({1, 1, 4, 4}), {2}, {.padding = {2}});
                    },
                    [] {
                      max_pool(samples::normal({1, 1, 2}), {2}, {.padding = {1}, .dilation = {3}});
                    }},
}};

const RegisterOp adaptive_avg_row{{
    .name = "adaptive_avg_pool",
    .formula = "y[b, c, i] = mean of x[b, c, ⌊i·in / out⌋ … ⌈(i + 1)·in / out⌉]",
    .source = "PyTorch's conventions",
    .samples = [] { return adaptive_samples(adaptive_avg_pool); },
    .wrong_calls = {[] {
                      adaptive_avg_pool(samples::normal({2, 2}), {1});
                    },
                    [] {
                      adaptive_avg_pool(samples::normal({1, 1, 4}), {0});
                    }},
}};

const RegisterOp adaptive_max_row{{
    .name = "adaptive_max_pool",
    .formula = "y[b, c, i] = max of x[b, c, ⌊i·in / out⌋ … ⌈(i + 1)·in / out⌉]",
    .source = "PyTorch's conventions",
    .samples =
        [] {
          return adaptive_samples(
              [](const Tensor& x, const Shape& size) { return adaptive_max_pool(x, size).y; });
        },
    .wrong_calls = {[] {
      adaptive_max_pool(samples::normal({1, 1, 0}), {1});
    }},
}};

const RegisterOp global_row{{
    .name = "global_avg_pool",
    .formula = "y[b, c] = mean of x[b, c]",
    .source = "",
    .samples =
        [] {
          return std::vector<OpSample>{
              {"images",
               {samples::normal({2, 3, 2, 2})},
               [](const TensorList& in) { return TensorList{global_avg_pool(in[0])}; },
               {}}};
        },
    .wrong_calls = {[] {
                      global_avg_pool(samples::normal({2, 3}));
                    },
                    [] {
                      global_avg_pool(samples::normal({2, 3, 0}));
                    }},
}};

}  // namespace

Tensor avg_pool(const Tensor& x, const Shape& kernel, const AvgPoolOptions& options) {
  const kernels::Window w = pool_window("avg_pool", x, kernel, options.stride, options.padding, {});
  Tensor y = x;
  for (int64_t d = 0; d < w.in.rank(); ++d) {
    const int64_t divisor = options.count_include_pad ? w.kernel[d] : 0;
    y = axis_map(y, d + 2, mean_table(ranges_of("avg_pool", w, d), w.in[d], divisor), "avg_pool");
  }
  return y;
}

MaxPoolResult max_pool_with_index(const Tensor& x, const Shape& kernel,
                                  const MaxPoolOptions& options) {
  const kernels::Window w =
      pool_window("max_pool", x, kernel, options.stride, options.padding, options.dilation);
  std::vector<Ranges> axes;
  std::vector<PoolAxis> windows;
  for (int64_t d = 0; d < w.in.rank(); ++d) {
    axes.push_back(ranges_of("max_pool", w, d));
    windows.push_back({w.in[d], w.out[d], w.kernel[d], w.stride[d], w.padding[d], w.dilation[d]});
  }
  return max_over("max_pool", x, std::move(axes), std::move(windows));
}

Tensor max_pool(const Tensor& x, const Shape& kernel, const MaxPoolOptions& options) {
  return max_pool_with_index(x, kernel, options).y;
}

Tensor adaptive_avg_pool(const Tensor& x, const Shape& size) {
  const Shape out = adaptive_size("adaptive_avg_pool", x, size);
  Tensor y = x;
  for (int64_t d = 0; d < out.rank(); ++d) {
    const int64_t in = x.size(d + 2);
    y = axis_map(y, d + 2, mean_table(adaptive_ranges(in, out[d]), in, 0), "adaptive_avg_pool");
  }
  return y;
}

MaxPoolResult adaptive_max_pool(const Tensor& x, const Shape& size) {
  const Shape out = adaptive_size("adaptive_max_pool", x, size);
  std::vector<Ranges> axes;
  std::vector<PoolAxis> windows;
  for (int64_t d = 0; d < out.rank(); ++d) {
    axes.push_back(adaptive_ranges(x.size(d + 2), out[d]));
    windows.push_back({.in = x.size(d + 2), .out = out[d], .stride = 0});
  }
  return max_over("adaptive_max_pool", x, std::move(axes), std::move(windows));
}

Tensor global_avg_pool(const Tensor& x) {
  const Shape in = spatial("global_avg_pool", x);
  check(in.numel() > 0, "global_avg_pool: the planes of x {} are empty", x.shape());
  return sum(flatten(x, 2), {2}) * (1 / static_cast<double>(in.numel()));
}

}  // namespace tessera
