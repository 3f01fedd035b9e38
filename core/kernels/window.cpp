#include "tessera/core/kernels/window.h"

#include "tessera/core/parallel.h"

namespace tessera::kernels {
namespace {

// The positions along one dimension at which tap `k` meets the input: [first, last).
struct Reach {
  int64_t first;
  int64_t last;
};

int64_t ceil_div(int64_t a, int64_t b) {  // b > 0
  return a >= 0 ? (a + b - 1) / b : -(-a / b);
}

Reach reach(const Window& w, int64_t d, int64_t k) {
  const int64_t shift = k * w.dilation[d] - w.padding[d];  // input index at position 0
  const int64_t first = std::max<int64_t>(0, ceil_div(-shift, w.stride[d]));
  const int64_t last = std::min(w.out[d], ceil_div(w.in[d] - shift, w.stride[d]));
  return {first, last};
}

// Splits a flat index into one per dimension.
Shape unflatten(int64_t flat, const Shape& sizes) {
  Shape index = sizes;
  for (int64_t d = sizes.rank() - 1; d >= 0; --d) {
    index[d] = flat % sizes[d];
    flat /= sizes[d];
  }
  return index;
}

// The input offset of the row of positions `row` at tap `k`, in all dimensions but the last; −1 in
// the padding.
int64_t row_offset(const Window& w, const Shape& k, const Shape& row) {
  int64_t offset = 0;
  for (int64_t d = 0; d < row.rank(); ++d) {
    const int64_t at = row[d] * w.stride[d] + k[d] * w.dilation[d] - w.padding[d];
    if (at < 0 || at >= w.in[d]) return -1;
    offset = offset * w.in[d] + at;
  }
  return offset * w.in.back();
}

}  // namespace

bool Window::is_identity() const {
  const auto all = [](const Shape& list, int64_t value) {
    return std::all_of(list.begin(), list.end(), [=](int64_t v) { return v == value; });
  };
  return all(kernel, 1) && all(stride, 1) && all(padding, 0);
}

Shape per_dimension(std::string_view op, const char* what, const Shape& list, int64_t rank,
                    int64_t fallback) {
  if (list.empty()) return Shape::filled(rank, fallback);
  if (list.rank() == 1) return Shape::filled(rank, list[0]);
  check(list.rank() == rank, "{}: {} {} must have one value or {}", op, what, list, rank);
  return list;
}

Window make_window(std::string_view op, const Shape& in, const Shape& kernel, const Shape& stride,
                   const Shape& padding, const Shape& dilation) {
  const int64_t rank = in.rank();
  Window w{in,
           per_dimension(op, "kernel", kernel, rank, 1),
           per_dimension(op, "stride", stride, rank, 1),
           per_dimension(op, "padding", padding, rank, 0),
           per_dimension(op, "dilation", dilation, rank, 1),
           {}};
  for (int64_t d = 0; d < rank; ++d) {
    check(w.kernel[d] >= 1 && w.stride[d] >= 1 && w.dilation[d] >= 1 && w.padding[d] >= 0,
          "{}: kernel {}, stride {} and dilation {} must be at least 1, padding {} at least 0", op,
          w.kernel, w.stride, w.dilation, w.padding);
    const int64_t room = in[d] + 2 * w.padding[d] - w.dilation[d] * (w.kernel[d] - 1) - 1;
    check(room >= 0, "{}: kernel {} with dilation {} is larger than the input {} with padding {}",
          op, w.kernel, w.dilation, in, w.padding);
    w.out.push_back(room / w.stride[d] + 1);
  }
  return w;
}

Runs runs_of(const Window& w, int64_t begin, int64_t end) {
  Runs runs{begin, end, w.stride.back(), true, {}};
  Shape outer = w.out;
  outer.pop_back();
  const int64_t width = w.out.back();
  const int64_t last = w.in.rank() - 1;
  for (int64_t tap = 0; tap < w.taps(); ++tap) {
    const Shape k = unflatten(tap, w.kernel);
    const Reach reached = reach(w, last, k.back());
    int64_t seen = 0;
    for (int64_t p = begin; p < end;) {
      const int64_t row = p / width;
      const int64_t row_end = std::min(end - row * width, width);
      const int64_t first = std::max(reached.first, p - row * width);
      const int64_t stop = std::min(reached.last, row_end);
      const int64_t offset = row_offset(w, k, unflatten(row, outer));
      if (offset >= 0 && first < stop) {
        const int64_t at = first * w.stride.back() + k.back() * w.dilation.back();
        runs.list.push_back(
            {tap, offset + at - w.padding.back(), row * width + first - begin, stop - first});
        seen += stop - first;
      }
      p = row * width + row_end;
    }
    runs.covers = runs.covers && seen == end - begin;
  }
  return runs;
}

template <class T>
void unfold(const Window& window, const Runs& runs, int64_t channels, const T* x, T* columns) {
  const int64_t plane = window.in.numel();
  const int64_t n = runs.positions();
  const int64_t step = runs.step;
  parallel_for(channels, channels * window.taps() * n, [&](int64_t c) {
    const T* from = x + c * plane;
    T* to = columns + c * window.taps() * n;
    if (!runs.covers) std::fill(to, to + window.taps() * n, T(0));
    for (const Run& run : runs.list) {
      const T* source = from + run.in;
      T* target = to + run.tap * n + run.out;
      if (step == 1) {
        std::copy(source, source + run.count, target);
      } else {
        for (int64_t i = 0; i < run.count; ++i) target[i] = source[i * step];
      }
    }
  });
}

template <class T>
void fold(const Window& window, const Runs& runs, int64_t channels, const T* columns, T* x) {
  const int64_t plane = window.in.numel();
  const int64_t n = runs.positions();
  const int64_t step = runs.step;
  parallel_for(channels, channels * window.taps() * n, [&](int64_t c) {
    const T* from = columns + c * window.taps() * n;
    T* to = x + c * plane;
    for (const Run& run : runs.list) {
      const T* source = from + run.tap * n + run.out;
      T* target = to + run.in;
      if (step == 1) {
#pragma omp simd
        for (int64_t i = 0; i < run.count; ++i) target[i] += source[i];
      } else {
        for (int64_t i = 0; i < run.count; ++i) target[i * step] += source[i];
      }
    }
  });
}

template void unfold(const Window&, const Runs&, int64_t, const float*, float*);
template void unfold(const Window&, const Runs&, int64_t, const double*, double*);
template void fold(const Window&, const Runs&, int64_t, const float*, float*);
template void fold(const Window&, const Runs&, int64_t, const double*, double*);

}  // namespace tessera::kernels
