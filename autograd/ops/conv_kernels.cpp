#include "tessera/autograd/ops/conv_kernels.h"

#include "tessera/autograd/ops/conv_kernels_cuda.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/accumulate.h"
#include "tessera/core/kernels/fill.h"
#include "tessera/core/kernels/gemm.h"
#include "tessera/core/parallel.h"
#include "tessera/core/view.h"

namespace tessera::kernels {
namespace {

constexpr int64_t kColumnValues = 128 * 1024;  // of one block of columns: half of an L2 cache
constexpr int64_t kPartialWeights = 2 * 1024 * 1024;  // values of all partial weight gradients

// Sizes of one call, and how the positions are cut into blocks (by the sizes alone).
struct Sizes {
  int64_t batch, groups;
  int64_t in_channels, out_channels;  // of one group
  int64_t in, taps, out;              // spatial elements
  int64_t block;

  int64_t rows() const { return in_channels * taps; }
  int64_t blocks() const { return (out + block - 1) / block; }
  int64_t work() const { return batch * groups * out_channels * rows() * out; }
};

Sizes sizes_of(const ConvPlan& plan, int64_t batch, int64_t in_channels, int64_t out_channels) {
  const Window& w = plan.window;
  Sizes s{batch, plan.groups, in_channels, out_channels, w.in.numel(), w.taps(), w.positions(), 0};
  const int64_t fitting = kColumnValues / std::max<int64_t>(1, s.rows()) / 16 * 16;
  s.block = std::clamp<int64_t>(fitting, 64, std::max<int64_t>(64, s.out));
  return s;
}

std::vector<Runs> runs_of_blocks(const Window& window, const Sizes& s) {
  std::vector<Runs> list;
  for (int64_t b = 0; b < s.blocks(); ++b) {
    list.push_back(runs_of(window, b * s.block, std::min(s.out, (b + 1) * s.block)));
  }
  return list;
}

Tensor matrix(const Tensor& x, int64_t rows, int64_t columns, int64_t row_stride, int64_t offset) {
  return views::as_strided(x, {rows, columns}, {row_stride, 1}, x.offset() + offset);
}

// The blocks of a dense call as matrices. `unit` counts samples and groups: sample · groups +
// group.
struct Blocks {
  const ConvPlan& plan;
  Sizes s;
  std::vector<Runs> runs;

  Blocks(const ConvPlan& p, const Sizes& sizes) : plan(p), s(sizes) {
    if (!plan.window.is_identity()) runs = runs_of_blocks(plan.window, s);
  }
  int64_t begin(int64_t block) const { return block * s.block; }
  int64_t count(int64_t block) const { return std::min(s.block, s.out - begin(block)); }

  // (O, block) of y.
  Tensor result(const Tensor& y, int64_t unit, int64_t block) const {
    return matrix(y, s.out_channels, count(block), s.out,
                  unit * s.out_channels * s.out + begin(block));
  }
  // (O, C · taps) of one group.
  Tensor weight(const Tensor& w, int64_t group) const {
    return matrix(w, s.out_channels, s.rows(), s.rows(), group * s.out_channels * s.rows());
  }
  // (C · taps, block) of x: its own elements when the window is the identity, else unfolded.
  template <class T>
  Tensor columns(const Tensor& x, int64_t unit, int64_t block) const {
    const int64_t at = unit * s.in_channels * s.in;
    if (runs.empty()) return matrix(x, s.in_channels, count(block), s.in, at + begin(block));
    const Tensor c = empty({s.rows(), count(block)}, {x.dtype(), x.device()});
    unfold(plan.window, runs[static_cast<size_t>(block)], s.in_channels, x.data<T>() + at,
           c.data<T>());
    return c;
  }
};

template <class T>
void conv_blocks(const ConvPlan& plan, const Sizes& s, const Tensor& x, const Tensor& w,
                 const Tensor& bias, const Tensor& y) {
  const Blocks blocks(plan, s);
  parallel_for(s.batch * s.groups * s.blocks(), s.work(), [&](int64_t task) {
    const int64_t unit = task / s.blocks();
    const int64_t block = task % s.blocks();
    const int64_t group = unit % s.groups;
    const Tensor c = blocks.result(y, unit, block);
    for (int64_t o = 0; bias.defined() && o < s.out_channels; ++o) {
      T* row = c.data<T>() + o * s.out;
      std::fill(row, row + c.size(1), bias.data<T>()[group * s.out_channels + o]);
    }
    gemm(c, blocks.weight(w, group), blocks.columns<T>(x, unit, block), 1, bias.defined() ? 1 : 0);
  });
}

template <class T>
void input_blocks(const ConvPlan& plan, const Sizes& s, const Tensor& y, const Tensor& w,
                  const Tensor& x) {
  const Blocks blocks(plan, s);
  parallel_for(s.batch * s.groups, s.work(), [&](int64_t unit) {
    const Tensor turned = views::transpose(blocks.weight(w, unit % s.groups), 0, 1);
    T* to = x.data<T>() + unit * s.in_channels * s.in;
    if (!blocks.runs.empty()) std::fill(to, to + s.in_channels * s.in, T(0));
    for (int64_t block = 0; block < s.blocks(); ++block) {
      const Tensor g = blocks.result(y, unit, block);
      if (blocks.runs.empty()) {
        gemm(blocks.columns<T>(x, unit, block), turned, g);
        continue;
      }
      const Tensor c = empty({s.rows(), g.size(1)}, {x.dtype(), x.device()});
      gemm(c, turned, g);
      fold(plan.window, blocks.runs[static_cast<size_t>(block)], s.in_channels, c.data<T>(), to);
    }
  });
}

// Samples are summed in a fixed number of parts, which are then added in order.
template <class T>
Tensor weight_blocks(const ConvPlan& plan, const Sizes& s, const Tensor& x, const Tensor& y,
                     Shape shape) {
  const Blocks blocks(plan, s);
  const int64_t limit = kPartialWeights / std::max<int64_t>(1, shape.numel());
  const int64_t parts = std::max<int64_t>(1, std::min({limit, kSumParts, s.batch}));
  const int64_t samples = (s.batch + parts - 1) / parts;
  shape.insert(0, parts);
  const Tensor partial = empty(shape, {x.dtype(), x.device()});
  parallel_for(parts * s.groups, s.work(), [&](int64_t task) {
    const int64_t part = task / s.groups;
    const int64_t group = task % s.groups;
    const Tensor sum = blocks.weight(partial, task);
    fill(sum, 0);
    for (int64_t b = part * samples; b < std::min(s.batch, (part + 1) * samples); ++b) {
      for (int64_t block = 0; block < s.blocks(); ++block) {
        const int64_t unit = b * s.groups + group;
        const Tensor columns = blocks.columns<T>(x, unit, block);
        gemm(sum, blocks.result(y, unit, block), views::transpose(columns, 0, 1), 1, 1);
      }
    }
  });
  return parts == 1 ? views::select(partial, 0, 0) : sum(partial, {0}, false);
}

// ---- Depthwise: every group has one input channel and a few output channels --------------------

template <class T>
void conv_depthwise(const ConvPlan& plan, const Sizes& s, const Tensor& x, const Tensor& w,
                    const Tensor& bias, const Tensor& y) {
  const Runs runs = runs_of(plan.window, 0, s.out);
  const int64_t outputs = s.groups * s.out_channels;
  parallel_for(s.batch * outputs, s.work(), [&](int64_t task) {
    const int64_t o = task % outputs;
    const T* from = x.data<T>() + (task / s.out_channels) * s.in;
    const T* weight = w.data<T>() + o * s.taps;
    T* to = y.data<T>() + task * s.out;
    std::fill(to, to + s.out, bias.defined() ? bias.data<T>()[o] : T(0));
    for (const Run& run : runs.list) {
      const T tap = weight[run.tap];
      const T* source = from + run.in;
      T* target = to + run.out;
      if (runs.step == 1) {
#pragma omp simd
        for (int64_t i = 0; i < run.count; ++i) target[i] += tap * source[i];
      } else {
        for (int64_t i = 0; i < run.count; ++i) target[i] += tap * source[i * runs.step];
      }
    }
  });
}

template <class T>
void input_depthwise(const ConvPlan& plan, const Sizes& s, const Tensor& y, const Tensor& w,
                     const Tensor& x) {
  const Runs runs = runs_of(plan.window, 0, s.out);
  parallel_for(s.batch * s.groups, s.work(), [&](int64_t unit) {
    T* to = x.data<T>() + unit * s.in;
    std::fill(to, to + s.in, T(0));
    for (int64_t o = 0; o < s.out_channels; ++o) {
      const T* from = y.data<T>() + (unit * s.out_channels + o) * s.out;
      const T* weight = w.data<T>() + (unit % s.groups * s.out_channels + o) * s.taps;
      for (const Run& run : runs.list) {
        const T tap = weight[run.tap];
        const T* source = from + run.out;
        T* target = to + run.in;
        if (runs.step == 1) {
#pragma omp simd
          for (int64_t i = 0; i < run.count; ++i) target[i] += tap * source[i];
        } else {
          for (int64_t i = 0; i < run.count; ++i) target[i * runs.step] += tap * source[i];
        }
      }
    }
  });
}

template <class T>
T dot(const T* g, const T* x, int64_t n, int64_t step) {
  T total = 0;
  if (step == 1) {
#pragma omp simd reduction(+ : total)
    for (int64_t i = 0; i < n; ++i) total += g[i] * x[i];
  } else {
    for (int64_t i = 0; i < n; ++i) total += g[i] * x[i * step];
  }
  return total;
}

template <class T>
Tensor weight_depthwise(const ConvPlan& plan, const Sizes& s, const Tensor& x, const Tensor& y,
                        const Shape& shape) {
  const Runs runs = runs_of(plan.window, 0, s.out);
  const int64_t outputs = s.groups * s.out_channels;
  const Tensor w = empty(shape, {x.dtype(), x.device()});
  parallel_for(outputs, s.work(), [&](int64_t o) {
    std::vector<double> sums(static_cast<size_t>(s.taps));
    for (int64_t b = 0; b < s.batch; ++b) {
      const int64_t at = b * outputs + o;
      const T* from = x.data<T>() + at / s.out_channels * s.in;
      const T* grad = y.data<T>() + at * s.out;
      for (const Run& run : runs.list) {
        const T* a = from + run.in;
        const T* g = grad + run.out;
        sums[static_cast<size_t>(run.tap)] += static_cast<double>(dot(g, a, run.count, runs.step));
      }
    }
    for (int64_t t = 0; t < s.taps; ++t) {
      w.data<T>()[o * s.taps + t] = static_cast<T>(sums[static_cast<size_t>(t)]);
    }
  });
  return w;
}

bool is_depthwise(const Sizes& s) {
  return s.groups > 1 && s.in_channels == 1;
}

Shape with_spatial(int64_t a, int64_t b, const Shape& spatial) {
  Shape shape{a, b};
  for (int64_t size : spatial) shape.push_back(size);
  return shape;
}

}  // namespace

Tensor conv(const ConvPlan& plan, const Tensor& x, const Tensor& w, const Tensor& bias) {
  if constexpr (kCuda) {
    if (x.device().is_cuda()) return conv_cuda(plan, x, w, bias);
  }
  const Sizes s = sizes_of(plan, x.size(0), w.size(1), w.size(0) / plan.groups);
  const Tensor y =
      empty(with_spatial(x.size(0), w.size(0), plan.window.out), {x.dtype(), x.device()});
  visit_floating("conv", x.dtype(), [&]<class T>() {
    (is_depthwise(s) ? conv_depthwise<T> : conv_blocks<T>)(plan, s, x, w, bias, y);
  });
  return y;
}

Tensor conv_input(const ConvPlan& plan, const Tensor& y, const Tensor& w) {
  if constexpr (kCuda) {
    if (y.device().is_cuda()) return conv_input_cuda(plan, y, w);
  }
  const Sizes s = sizes_of(plan, y.size(0), w.size(1), w.size(0) / plan.groups);
  const Tensor x = empty(with_spatial(y.size(0), w.size(1) * plan.groups, plan.window.in),
                         {y.dtype(), y.device()});
  visit_floating("conv", y.dtype(), [&]<class T>() {
    (is_depthwise(s) ? input_depthwise<T> : input_blocks<T>)(plan, s, y, w, x);
  });
  return x;
}

Tensor conv_weight(const ConvPlan& plan, const Tensor& x, const Tensor& y) {
  if constexpr (kCuda) {
    if (x.device().is_cuda()) return conv_weight_cuda(plan, x, y);
  }
  const Sizes s = sizes_of(plan, x.size(0), x.size(1) / plan.groups, y.size(1) / plan.groups);
  const Shape shape = with_spatial(y.size(1), s.in_channels, plan.window.kernel);
  return visit_floating("conv", x.dtype(), [&]<class T>() {
    return is_depthwise(s) ? weight_depthwise<T>(plan, s, x, y, shape)
                           : weight_blocks<T>(plan, s, x, y, shape);
  });
}

}  // namespace tessera::kernels
