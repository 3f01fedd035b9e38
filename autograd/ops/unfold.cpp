#include "tessera/autograd/ops/unfold.h"

#include "tessera/autograd/op.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/registry.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/kernels/window.h"
#include "tessera/core/kernels/window_cuda.h"

namespace tessera {
namespace {

Tensor fold_windows(const Tensor& columns, const kernels::Window& window);

struct Unfold {
  static constexpr std::string_view name = "unfold";
  kernels::Window window;

  Tensor forward(Forward&, const Tensor& x) const {
    const Tensor source = kernels::contiguous(x);
    const int64_t rows = x.size(1) * window.taps();
    const Tensor y = empty({x.size(0), rows, window.positions()}, {x.dtype(), x.device()});
    if constexpr (kCuda) {
      if (x.device().is_cuda()) {
        kernels::unfold_cuda(window, source, y);
        return y;
      }
    }
    const kernels::Runs runs = kernels::runs_of(window, 0, window.positions());
    visit_floating(name, x.dtype(), [&]<class T>() {
      kernels::unfold(window, runs, x.size(0) * x.size(1), source.data<T>(), y.data<T>());
    });
    return y;
  }
  void backward(Backward& b) const { b.add(0, fold_windows(b.grad(), window)); }
};

struct Fold {
  static constexpr std::string_view name = "fold";
  kernels::Window window;

  Tensor forward(Forward&, const Tensor& x) const {
    const Tensor source = kernels::contiguous(x);
    Shape shape{x.size(0), x.size(1) / window.taps()};
    for (int64_t size : window.in) shape.push_back(size);
    if constexpr (kCuda) {
      if (x.device().is_cuda()) {
        const Tensor y = empty(shape, {x.dtype(), x.device()});
        kernels::fold_cuda(window, source, y);
        return y;
      }
    }
    const Tensor y = zeros(shape, {x.dtype(), x.device()});
    const kernels::Runs runs = kernels::runs_of(window, 0, window.positions());
    visit_floating(name, x.dtype(), [&]<class T>() {
      kernels::fold(window, runs, shape[0] * shape[1], source.data<T>(), y.data<T>());
    });
    return y;
  }
  void backward(Backward& b) const { b.add(0, apply(Unfold{window}, b.grad())); }
};

Tensor fold_windows(const Tensor& columns, const kernels::Window& window) {
  return apply(Fold{window}, columns);
}

OpSample unfold_sample(const char* label, const Tensor& x, const Shape& kernel,
                       const WindowOptions& options) {
  return {label,
          {x},
          [=](const TensorList& in) { return TensorList{unfold(in[0], kernel, options)}; },
          {}};
}

const RegisterOp unfold_row{{
    .name = "unfold",
    .formula = "y[b, c·Πk + tap, l] = x[b, c, l · stride + tap · dilation − padding]",
    .source = "PyTorch's layout",
    .samples =
        [] {
          return std::vector<OpSample>{
              unfold_sample("3 × 2", samples::normal({2, 2, 4, 3}), {3, 2}, {}),
              unfold_sample("stride, padding and dilation", samples::normal({1, 2, 5, 6}), {2, 3},
                            {.stride = {2, 1}, .padding = {1, 2}, .dilation = {1, 2}}),
              unfold_sample("one dimension", samples::normal({2, 3, 7}), {3}, {.stride = {2}}),
              unfold_sample("strided", samples::strided(samples::normal({2, 2, 3, 3})), {2}, {}),
              unfold_sample("no samples", samples::normal({0, 2, 3, 3}), {2}, {})};
        },
    .wrong_calls = {[] {
                      unfold(samples::normal({2, 2}), {1});
                    },
                    [] {
                      unfold(samples::normal({1, 1, 2, 2}), {3});
                    },
                    [] {
                      unfold(samples::normal({1, 1, 2, 2}), {1, 1, 1});
                    },
                    [] {
                      unfold(samples::normal({1, 1, 2, 2}), {1}, {.stride = {0}});
                    },
                    [] {
                      unfold(samples::integers({1, 1, 2, 2}, 0, 5), {1});
                    }},
}};

const RegisterOp fold_row{{
    .name = "fold",
    .formula = "the adjoint of unfold: overlapping windows are summed",
    .source = "PyTorch's layout",
    .samples =
        [] {
          return std::vector<OpSample>{
              {"overlapping",
               {samples::normal({2, 8, 6})},
               [](const TensorList& x) {
                 return TensorList{fold(x[0], {3, 4}, {2}, {})};
               },
               {}},
              {"stride and padding",
               {samples::normal({1, 9, 4})},
               [](const TensorList& x) {
                 return TensorList{fold(x[0], {3, 4}, {3}, {.stride = {2}, .padding = {1}})};
               },
               {}}};
        },
    .wrong_calls = {[] {
                      fold(samples::normal({1, 8, 5}), {3, 4}, {2});
                    },
                    [] {
                      fold(samples::normal({1, 7, 6}), {3, 4}, {2});
                    }},
}};

}  // namespace

Tensor unfold(const Tensor& x, const Shape& kernel, const WindowOptions& options) {
  check(is_floating(x.dtype()), "unfold: wants a floating dtype, got {}", x.dtype());
  check(x.rank() >= 3, "unfold: x must be (B, C, spatial…), got {}", x.shape());
  const Shape in(std::span(x.shape().begin() + 2, x.shape().end()));
  return apply(Unfold{kernels::make_window("unfold", in, kernel, options.stride, options.padding,
                                           options.dilation)},
               x);
}

Tensor fold(const Tensor& columns, const Shape& size, const Shape& kernel,
            const WindowOptions& options) {
  check(columns.rank() == 3, "fold: columns must be (B, C · Πkernel, L), got {}", columns.shape());
  check(size.rank() >= 1, "fold: size must have at least one dimension");
  const kernels::Window window =
      kernels::make_window("fold", size, kernel, options.stride, options.padding, options.dilation);
  check(columns.size(1) % window.taps() == 0 && columns.size(2) == window.positions(),
        "fold: columns {} do not fit size {} with kernel {}: wants (B, {} · C, {})",
        columns.shape(), size, window.kernel, window.taps(), window.positions());
  return fold_windows(columns, window);
}

}  // namespace tessera
