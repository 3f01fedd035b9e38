// Sliding windows over spatial dimensions: which input elements every output position sees. All
// index arithmetic of convolution and unfolding is done once, into a list of runs; the kernels then
// are flat loops over it, the same list for every channel and sample.
#pragma once

#include <span>
#include <vector>

#include "tessera/core/shape.h"

namespace tessera::kernels {

struct Window {
  Shape in;  // spatial sizes
  Shape kernel;
  Shape stride;
  Shape padding;  // on both sides
  Shape dilation;
  Shape out;  // ⌊(in + 2 padding − dilation (kernel − 1) − 1) / stride⌋ + 1

  int64_t taps() const { return kernel.numel(); }
  int64_t positions() const { return out.numel(); }
  // Every position sees exactly the element of the same index.
  bool is_identity() const;
};

// One value per spatial dimension from a list that has one each, one for all, or none.
Shape per_dimension(std::string_view op, const char* what, const Shape& list, int64_t rank,
                    int64_t fallback);

// Lists as for per_dimension. Throws for sizes below their minimum and for a window that is larger
// than the padded input; `op` begins the error.
Window make_window(std::string_view op, const Shape& in, const Shape& kernel, const Shape& stride,
                   const Shape& padding, const Shape& dilation);

// At kernel element `tap`, the positions out … out + count − 1 (counted from the first position of
// the list) see the input elements in, in + stride.back(), in + 2 stride.back(), …
struct Run {
  int64_t tap;
  int64_t in;
  int64_t out;
  int64_t count;
};

// The runs of the positions [begin, end), ordered by tap and position. What lies in the padding is
// in no run.
struct Runs {
  int64_t begin;
  int64_t end;
  int64_t step;  // stride.back()
  bool covers;   // every tap sees an element at every position
  std::vector<Run> list;

  int64_t positions() const { return end - begin; }
};
Runs runs_of(const Window& window, int64_t begin, int64_t end);

// x (channels, in…) → columns (channels · taps, positions of the runs); zero in the padding.
template <class T>
void unfold(const Window& window, const Runs& runs, int64_t channels, const T* x, T* columns);
// The adjoint: adds the columns to x.
template <class T>
void fold(const Window& window, const Runs& runs, int64_t channels, const T* columns, T* x);

}  // namespace tessera::kernels
