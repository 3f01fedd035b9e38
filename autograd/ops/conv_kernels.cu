#include "tessera/autograd/ops/conv_kernels_cuda.h"
#include "tessera/core/create.h"
#include "tessera/core/cuda/kernel.h"
#include "tessera/core/cuda/planes.h"
#include "tessera/core/cuda/window.h"
#include "tessera/core/kernels/accumulate.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/kernels/fill.h"
#include "tessera/core/kernels/gemm.h"
#include "tessera/core/kernels/window_cuda.h"
#include "tessera/core/view.h"

namespace tessera::kernels {
namespace {

constexpr int64_t kColumnBytes = int64_t{256} << 20;

// Sizes of one call, and how many samples are unfolded at a time.
struct Sizes {
  int64_t batch, groups;
  int64_t in_channels, out_channels;  // of one group
  int64_t in, taps, out;              // spatial elements
  int64_t chunk;

  int64_t rows() const { return in_channels * taps; }
  bool depthwise() const { return groups > 1 && in_channels == 1; }
};

Sizes sizes_of(const ConvPlan& plan, int64_t batch, int64_t in_channels, int64_t out_channels,
               DType dtype) {
  const Window& w = plan.window;
  Sizes s{batch, plan.groups, in_channels, out_channels, w.in.numel(), w.taps(), w.positions(), 1};
  const int64_t sample = std::max<int64_t>(1, s.groups * s.rows() * s.out * size_of(dtype));
  const int64_t fitting =
      std::clamp<int64_t>(kColumnBytes / sample, 1, std::max<int64_t>(1, batch));
  const int64_t chunks = std::max<int64_t>(1, (batch + fitting - 1) / fitting);
  s.chunk = std::max<int64_t>(1, (batch + chunks - 1) / chunks);
  return s;
}

Shape with_spatial(int64_t a, int64_t b, const Shape& spatial) {
  Shape shape{a, b};
  for (int64_t size : spatial) shape.push_back(size);
  return shape;
}

// Rows of a buffer begin where the tensor cores like them.
int64_t pitch_of(int64_t n) {
  return (n + 7) / 8 * 8;
}

// Dense (B, G · C, …) as (B, G, C, n).
Tensor grouped(const Tensor& x, int64_t groups, int64_t channels, int64_t n) {
  return views::as_strided(x, {x.size(0), groups, channels, n},
                           {groups * channels * n, channels * n, n, 1}, x.offset());
}

// Weights as (1, G, O, C · taps).
Tensor weight_matrices(const Tensor& w, const Sizes& s) {
  return views::as_strided(w, {1, s.groups, s.out_channels, s.rows()},
                           {0, s.out_channels * s.rows(), s.rows(), 1}, w.offset());
}

// A buffer for the columns of `count` samples. Side by side, every sample has its own matrix; in
// line, one row holds a channel and tap of all samples.
struct Columns {
  Tensor buffer;
  Sizes s;
  int64_t count;
  int64_t sample, row;  // strides

  static Columns side_by_side(const Sizes& s, int64_t count, const Tensor& like) {
    const int64_t pitch = pitch_of(s.out);
    return {empty({count, s.groups, s.rows(), pitch}, {like.dtype(), like.device()}), s, count,
            s.groups * s.rows() * pitch, pitch};
  }
  static Columns in_line(const Sizes& s, int64_t count, const Tensor& like) {
    const int64_t pitch = pitch_of(count * s.out);
    return {empty({s.groups, s.rows(), pitch}, {like.dtype(), like.device()}), s, count, s.out,
            pitch};
  }
  // (B, G · C · taps, positions), for unfold and fold.
  Tensor windows() const {
    return views::as_strided(buffer, {count, s.groups * s.rows(), s.out}, {sample, row, 1}, 0);
  }
  // (B, G, C · taps, positions)
  Tensor matrices() const {
    return views::as_strided(buffer, {count, s.groups, s.rows(), s.out},
                             {sample, s.rows() * row, row, 1}, 0);
  }
  // (G, C · taps, B · positions), in line.
  Tensor lines() const {
    return views::as_strided(buffer, {s.groups, s.rows(), count * s.out}, {s.rows() * row, row, 1},
                             0);
  }
};

// Products of (B, G, …) matrices: in as few launches as the strides allow.
void group_products(const Tensor& c, const Tensor& a, const Tensor& b, double beta) {
  if (c.size(1) >= c.size(0)) return gemm(c, a, b, 1, beta);
  for (int64_t g = 0; g < c.size(1); ++g) {
    gemm(views::select(c, 1, g), views::select(a, 1, g), views::select(b, 1, g), 1, beta);
  }
}

template <class Fn>
void for_each_chunk(const Sizes& s, const Fn& fn) {
  for (int64_t b = 0; b < s.batch; b += s.chunk) fn(b, std::min(s.batch, b + s.chunk));
}

void conv_columns(const ConvPlan& plan, const Sizes& s, const Tensor& x, const Tensor& w,
                  const Tensor& bias, const Tensor& y) {
  const double beta = bias.defined() ? 1 : 0;
  if (bias.defined()) {
    copy(grouped(y, 1, bias.numel(), s.out),
         views::expand(views::unsqueeze(bias, 1), {s.batch, 1, bias.numel(), s.out}));
  }
  const Tensor weights = weight_matrices(w, s);
  const Tensor result = grouped(y, s.groups, s.out_channels, s.out);
  if (plan.window.is_identity()) {
    return group_products(result, weights, grouped(x, s.groups, s.in_channels, s.in), beta);
  }
  for_each_chunk(s, [&](int64_t begin, int64_t end) {
    const Columns columns = Columns::side_by_side(s, end - begin, x);
    unfold_cuda(plan.window, views::slice(x, 0, begin, end), columns.windows());
    group_products(views::slice(result, 0, begin, end), weights, columns.matrices(), beta);
  });
}

void input_columns(const ConvPlan& plan, const Sizes& s, const Tensor& y, const Tensor& w,
                   const Tensor& x) {
  const Tensor turned = views::transpose(weight_matrices(w, s), 2, 3);
  const Tensor grad = grouped(y, s.groups, s.out_channels, s.out);
  if (plan.window.is_identity()) {
    return group_products(grouped(x, s.groups, s.in_channels, s.in), turned, grad, 0);
  }
  for_each_chunk(s, [&](int64_t begin, int64_t end) {
    const Columns columns = Columns::side_by_side(s, end - begin, y);
    group_products(columns.matrices(), turned, views::slice(grad, 0, begin, end), 0);
    fold_cuda(plan.window, columns.windows(), views::slice(x, 0, begin, end));
  });
}

// (G, O, B · positions) of the samples of y: a view of one sample, a copy of several.
Tensor result_lines(const Sizes& s, const Tensor& y) {
  const int64_t count = y.size(0);
  if (count == 1) return views::select(grouped(y, s.groups, s.out_channels, s.out), 0, 0);
  const int64_t channels = s.groups * s.out_channels;
  const int64_t pitch = pitch_of(count * s.out);
  const Tensor lines = empty({channels, pitch}, {y.dtype(), y.device()});
  copy(views::as_strided(lines, {count, channels, s.out}, {s.out, pitch, 1}, 0),
       views::as_strided(y, {count, channels, s.out}, {channels * s.out, s.out, 1}, y.offset()));
  return views::as_strided(lines, {s.groups, s.out_channels, count * s.out},
                           {s.out_channels * pitch, pitch, 1}, 0);
}

void weight_columns(const ConvPlan& plan, const Sizes& s, const Tensor& x, const Tensor& y,
                    const Tensor& w) {
  // Halves that are added chunk by chunk are added in f32.
  const bool wide = is_half(w.dtype()) && s.chunk < s.batch;
  const Tensor sum = wide ? empty(w.shape(), {DType::f32, w.device()}) : w;
  const Tensor result = views::select(weight_matrices(sum, s), 0, 0);
  if (s.batch == 0) fill(w, 0);
  for_each_chunk(s, [&](int64_t begin, int64_t end) {
    const Tensor lines = result_lines(s, views::slice(y, 0, begin, end));
    const Tensor samples = views::slice(x, 0, begin, end);
    const auto columns = [&] {
      if (plan.window.is_identity() && end - begin == 1) {
        return views::select(grouped(samples, s.groups, s.in_channels, s.in), 0, 0);
      }
      const Columns made = Columns::in_line(s, end - begin, x);
      unfold_cuda(plan.window, samples, made.windows());
      return made.lines();
    }();
    gemm(result, lines, views::transpose(columns, 1, 2), 1, begin == 0 ? 0 : 1);
  });
  if (wide) copy(w, sum);
}

// ---- Depthwise: every group has one input channel and a few output channels --------------------

template <class T, int R>
__global__ void depthwise_kernel(cuda::Windows<R> window, int64_t planes, cuda::Divider outputs,
                                 cuda::Divider per_channel, const T* x, const T* w, const T* bias,
                                 T* y) {
  using C = cuda::Compute<T>;
  const unsigned position = cuda::plane_element();
  if (position >= window.positions) return;
  for (int64_t plane = cuda::first_plane(); plane < planes; plane += cuda::plane_step()) {
    const auto flat = static_cast<unsigned>(plane);
    const unsigned o = flat - outputs.divide(flat) * outputs.divisor;
    const T* from = x + static_cast<int64_t>(per_channel.divide(flat)) * window.plane;
    const T* weight = w + static_cast<int64_t>(o) * window.taps;
    C sum = bias != nullptr ? convert<C>(bias[o]) : C(0);
    window.for_each_input(position, [&](int tap, int element) {
      sum += convert<C>(weight[tap]) * convert<C>(from[element]);
    });
    y[plane * window.positions + position] = convert<T>(sum);
  }
}

template <class T, int R>
__global__ void depthwise_input_kernel(cuda::Windows<R> window, int64_t planes,
                                       cuda::Divider channels, int per_channel, const T* y,
                                       const T* w, T* x) {
  using C = cuda::Compute<T>;
  const unsigned element = cuda::plane_element();
  if (element >= window.plane) return;
  for (int64_t plane = cuda::first_plane(); plane < planes; plane += cuda::plane_step()) {
    const auto flat = static_cast<unsigned>(plane);
    const int64_t channel = flat - channels.divide(flat) * channels.divisor;
    C sum = 0;
    for (int o = 0; o < per_channel; ++o) {
      const T* from = y + (plane * per_channel + o) * window.positions;
      const T* weight = w + (channel * per_channel + o) * window.taps;
      window.for_each_position(element, [&](int tap, int position) {
        sum += convert<C>(weight[tap]) * convert<C>(from[position]);
      });
    }
    x[plane * window.plane + element] = convert<T>(sum);
  }
}

// The same for windows in two dimensions with stride and dilation 1: a thread walks down the image
// and has kStrip results in flight, so that every element is read once for all of them. With the
// weights turned round and padding kernel − 1 − padding this is the gradient of the input.
constexpr int kStrip = 4;

struct DenseWindow {
  int in[2], kernel[2], padding[2];
  cuda::Divider width;  // of the result
  int height;
  unsigned size;  // threads of a plane: a strip of rows and a column each
  bool turned;

  DenseWindow(const Window& w, bool backward) : turned(backward) {
    const Shape &from = backward ? w.out : w.in, &to = backward ? w.in : w.out;
    for (int d = 0; d < 2; ++d) {
      in[d] = static_cast<int>(from[d]);
      kernel[d] = static_cast<int>(w.kernel[d]);
      padding[d] = static_cast<int>(backward ? w.kernel[d] - 1 - w.padding[d] : w.padding[d]);
    }
    width = cuda::Divider(static_cast<unsigned>(to[1]));
    height = static_cast<int>(to[0]);
    size = static_cast<unsigned>((to[0] + kStrip - 1) / kStrip * to[1]);
  }
  static bool fits(const Window& w, int64_t rows) {
    const auto ones = [](const Shape& s) { return s == Shape{1, 1}; };
    return w.in.rank() == 2 && ones(w.stride) && ones(w.dilation) && rows >= kStrip;
  }
};

template <class T>
__global__ void strip_kernel(DenseWindow w, int64_t planes, cuda::Divider outputs,
                             cuda::Divider per_channel, const T* x, const T* weight, const T* bias,
                             T* y) {
  using C = cuda::Compute<T>;
  const unsigned element = cuda::plane_element();
  if (element >= w.size) return;
  const unsigned strip = w.width.divide(element);
  const int width = static_cast<int>(w.width.divisor);
  const int row = static_cast<int>(strip) * kStrip;
  const int column = static_cast<int>(element - strip * w.width.divisor);
  const int taps = w.kernel[0] * w.kernel[1];
  for (int64_t plane = cuda::first_plane(); plane < planes; plane += cuda::plane_step()) {
    const auto flat = static_cast<unsigned>(plane);
    const unsigned o = flat - outputs.divide(flat) * outputs.divisor;
    const T* from =
        x + static_cast<int64_t>(per_channel.divide(flat)) * (int64_t{w.in[0]} * w.in[1]);
    const T* first_tap = weight + static_cast<int64_t>(o) * taps + (w.turned ? taps - 1 : 0);
    C sum[kStrip];
#pragma unroll
    for (int j = 0; j < kStrip; ++j) sum[j] = bias != nullptr ? convert<C>(bias[o]) : C(0);
    for (int kx = 0; kx < w.kernel[1]; ++kx) {
      const int at = column - w.padding[1] + kx;
      if (at < 0 || at >= w.in[1]) continue;
      C tap[kStrip] = {};  // of result row + j: the one at distance i − j
#pragma unroll 4
      for (int i = 0; i < w.kernel[0] + kStrip - 1; ++i) {
#pragma unroll
        for (int j = kStrip - 1; j > 0; --j) tap[j] = tap[j - 1];
        const int t = i * w.kernel[1] + kx;
        tap[0] = i < w.kernel[0] ? convert<C>(first_tap[w.turned ? -t : t]) : C(0);
        const int down = row - w.padding[0] + i;
        if (down < 0 || down >= w.in[0]) continue;
        const C value = convert<C>(from[down * w.in[1] + at]);
#pragma unroll
        for (int j = 0; j < kStrip; ++j) sum[j] += tap[j] * value;
      }
    }
    T* to = y + plane * (int64_t{w.height} * width) + column;
#pragma unroll
    for (int j = 0; j < kStrip; ++j) {
      if (row + j < w.height) to[static_cast<int64_t>(row + j) * width] = convert<T>(sum[j]);
    }
  }
}

// Block: some taps of one output channel over a part of all positions of all samples.
constexpr int kTapsPerBlock = 8;
constexpr unsigned kWeightThreads = 256;

template <class T, int R>
__global__ void __launch_bounds__(kWeightThreads)
    depthwise_weight_kernel(cuda::Windows<R> window, int64_t outputs, int per_channel,
                            int64_t batch, int64_t samples_per_part, const T* x, const T* y,
                            cuda::Compute<T>* partial) {
  using C = cuda::Compute<T>;
  __shared__ C scratch[kWeightThreads / cuda::kWarp];
  const int64_t o = blockIdx.x;
  const int first = static_cast<int>(blockIdx.y) * kTapsPerBlock;
  int shift[kTapsPerBlock][R];
#pragma unroll
  for (int t = 0; t < kTapsPerBlock; ++t) {
    int rest = first + t;
#pragma unroll
    for (int d = R - 1; d >= 0; --d) {
      shift[t][d] = rest % window.kernel[d] * window.dilation[d] - window.padding[d];
      rest /= window.kernel[d];
    }
  }
  C sum[kTapsPerBlock] = {};
  const int64_t begin = blockIdx.z * samples_per_part;
  const int64_t end = min(batch, begin + samples_per_part);
  for (int64_t b = begin; b < end; ++b) {
    const T* grad = y + (b * outputs + o) * window.positions;
    const T* from = x + (b * outputs + o) / per_channel * window.plane;
    for (unsigned p = threadIdx.x; p < window.positions; p += kWeightThreads) {
      int index[R];
      window.split(p, window.by_out, index);
      const C g = convert<C>(grad[p]);
#pragma unroll
      for (int t = 0; t < kTapsPerBlock; ++t) {
        bool inside = first + t < window.taps;
        int element = 0;
#pragma unroll
        for (int d = 0; d < R; ++d) {
          const int at = index[d] * window.stride[d] + shift[t][d];
          inside = inside && at >= 0 && at < window.in[d];
          element = element * window.in[d] + at;
        }
        if (inside) sum[t] += g * convert<C>(from[element]);
      }
    }
  }
  C* to = partial + (blockIdx.z * outputs + o) * window.taps;
#pragma unroll
  for (int t = 0; t < kTapsPerBlock; ++t) {
    const C total = cuda::block_reduce(sum[t], cuda::Sum{}, C(0), scratch);
    if (threadIdx.x == 0 && first + t < window.taps) to[first + t] = total;
  }
}

template <class Fn>
void visit_conv(const ConvPlan& plan, DType dtype, const Fn& fn) {
  cuda::visit_floating("conv", dtype, [&]<class T>() {
    if (plan.window.in.rank() <= 2) {
      fn.template operator()<T, 2>();
    } else {
      fn.template operator()<T, 3>();
    }
  });
}

// x and y change places in the backward direction.
void conv_strips(const Window& window, bool backward, int64_t outputs, int64_t per_channel,
                 const Tensor& x, const Tensor& w, const Tensor& bias, const Tensor& y) {
  const int64_t planes = y.size(0) * y.size(1);
  const DenseWindow dense(window, backward);
  const cuda::PlaneGrid shape = cuda::plane_grid("conv", planes, dense.size);
  cuda::visit_floating("conv", x.dtype(), [&]<class T>() {
    cuda::launch("conv", x.device(), strip_kernel<T>, shape.grid, shape.block, 0, dense, planes,
                 cuda::Divider(static_cast<unsigned>(outputs)),
                 cuda::Divider(static_cast<unsigned>(per_channel)), cuda::data<T>(x),
                 cuda::data<T>(w), bias.defined() ? cuda::data<T>(bias) : nullptr,
                 cuda::data<T>(y));
  });
}

void conv_depthwise(const ConvPlan& plan, const Sizes& s, const Tensor& x, const Tensor& w,
                    const Tensor& bias, const Tensor& y) {
  const int64_t outputs = s.groups * s.out_channels;
  const int64_t planes = s.batch * outputs;
  check(planes < int64_t{1} << 31, "conv: result {} has too many planes for CUDA", y.shape());
  const cuda::PlaneGrid shape = cuda::plane_grid("conv", planes, s.out);
  if (DenseWindow::fits(plan.window, plan.window.out[0])) {
    return conv_strips(plan.window, false, outputs, s.out_channels, x, w, bias, y);
  }
  visit_conv(plan, x.dtype(), [&]<class T, int R>() {
    cuda::launch("conv", x.device(), depthwise_kernel<T, R>, shape.grid, shape.block, 0,
                 cuda::Windows<R>("conv", plan.window), planes,
                 cuda::Divider(static_cast<unsigned>(outputs)),
                 cuda::Divider(static_cast<unsigned>(s.out_channels)), cuda::data<T>(x),
                 cuda::data<T>(w), bias.defined() ? cuda::data<T>(bias) : nullptr,
                 cuda::data<T>(y));
  });
}

void input_depthwise(const ConvPlan& plan, const Sizes& s, const Tensor& y, const Tensor& w,
                     const Tensor& x) {
  const int64_t planes = s.batch * s.groups;
  check(planes < int64_t{1} << 31, "conv: input {} has too many planes for CUDA", x.shape());
  const cuda::PlaneGrid shape = cuda::plane_grid("conv", planes, s.in);
  if (s.out_channels == 1 && DenseWindow::fits(plan.window, plan.window.in[0])) {
    return conv_strips(plan.window, true, s.groups, 1, y, w, {}, x);
  }
  visit_conv(plan, x.dtype(), [&]<class T, int R>() {
    cuda::launch("conv", x.device(), depthwise_input_kernel<T, R>, shape.grid, shape.block, 0,
                 cuda::Windows<R>("conv", plan.window), planes,
                 cuda::Divider(static_cast<unsigned>(s.groups)), static_cast<int>(s.out_channels),
                 cuda::data<T>(y), cuda::data<T>(w), cuda::data<T>(x));
  });
}

void weight_depthwise(const ConvPlan& plan, const Sizes& s, const Tensor& x, const Tensor& y,
                      const Tensor& w) {
  const int64_t outputs = s.groups * s.out_channels;
  const int64_t tap_groups = (s.taps + kTapsPerBlock - 1) / kTapsPerBlock;
  check(tap_groups <= 65535, "conv: kernel {} is too large for CUDA", plan.window.kernel);
  const int64_t blocks = std::max<int64_t>(1, outputs * tap_groups);
  const int64_t wanted = std::clamp<int64_t>(16 * cuda::multiprocessors(x.device()) / blocks, 1,
                                             std::max<int64_t>(1, std::min<int64_t>(s.batch, 256)));
  const int64_t samples = std::max<int64_t>(1, (s.batch + wanted - 1) / wanted);
  const int64_t parts = std::max<int64_t>(1, (s.batch + samples - 1) / samples);
  visit_conv(plan, x.dtype(), [&]<class T, int R>() {
    const Tensor partial = empty({parts, w.numel()}, {dtype_of<cuda::Compute<T>>(), x.device()});
    const dim3 grid(static_cast<unsigned>(outputs), static_cast<unsigned>(tap_groups),
                    static_cast<unsigned>(parts));
    cuda::launch("conv", x.device(), depthwise_weight_kernel<T, R>, grid, kWeightThreads, 0,
                 cuda::Windows<R>("conv", plan.window), outputs, static_cast<int>(s.out_channels),
                 s.batch, samples, cuda::data<T>(x), cuda::data<T>(y),
                 cuda::data<cuda::Compute<T>>(partial));
    const Tensor total = parts == 1 ? views::select(partial, 0, 0) : sum(partial, {0}, false);
    copy(views::reshape(w, {w.numel()}), total);
  });
}

}  // namespace

Tensor conv_cuda(const ConvPlan& plan, const Tensor& x, const Tensor& w, const Tensor& bias) {
  const Sizes s = sizes_of(plan, x.size(0), w.size(1), w.size(0) / plan.groups, x.dtype());
  const Tensor y =
      empty(with_spatial(x.size(0), w.size(0), plan.window.out), {x.dtype(), x.device()});
  if (y.numel() > 0) (s.depthwise() ? conv_depthwise : conv_columns)(plan, s, x, w, bias, y);
  return y;
}

Tensor conv_input_cuda(const ConvPlan& plan, const Tensor& y, const Tensor& w) {
  const Sizes s = sizes_of(plan, y.size(0), w.size(1), w.size(0) / plan.groups, y.dtype());
  const Tensor x = empty(with_spatial(y.size(0), w.size(1) * plan.groups, plan.window.in),
                         {y.dtype(), y.device()});
  if (x.numel() > 0) (s.depthwise() ? input_depthwise : input_columns)(plan, s, y, w, x);
  return x;
}

Tensor conv_weight_cuda(const ConvPlan& plan, const Tensor& x, const Tensor& y) {
  const Sizes s =
      sizes_of(plan, x.size(0), x.size(1) / plan.groups, y.size(1) / plan.groups, x.dtype());
  const Tensor w =
      empty(with_spatial(y.size(1), s.in_channels, plan.window.kernel), {x.dtype(), x.device()});
  if (w.numel() > 0) (s.depthwise() ? weight_depthwise : weight_columns)(plan, s, x, y, w);
  return w;
}

}  // namespace tessera::kernels
