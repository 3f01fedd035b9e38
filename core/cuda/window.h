// Sliding windows on a device: the index arithmetic of kernels/window.h, done by every thread from
// parameters that travel by value. Only .cu files include this.
#pragma once

#include <numeric>

#include "tessera/core/cuda/strided.h"
#include "tessera/core/kernels/window.h"

namespace tessera::cuda {

// R dimensions; windows of fewer have leading ones of size 1. Planes have fewer than 2³¹ elements.
template <int R>
struct Windows {
  int in[R];
  int kernel[R];
  int stride[R];
  int padding[R];
  int dilation[R];
  int out[R];
  int tap_step[R];       // taps that meet one input element are this far apart,
  int position_step[R];  // and their positions this far
  Divider by_in[R];
  Divider by_stride[R];
  Divider by_out[R];
  int taps;
  unsigned plane;      // input elements
  unsigned positions;  // output elements

  Windows(std::string_view op, const kernels::Window& w) {
    check(std::max(w.in.numel(), w.positions()) < int64_t{1} << 31 && w.taps() < int64_t{1} << 31,
          "{}: {} windows on a plane {} are too many for CUDA, which wants fewer than 2^31", op,
          w.positions(), w.in);
    const int64_t lead = R - w.in.rank();
    const auto at = [lead](const Shape& list, int d, int64_t fallback) {
      return static_cast<int>(d < lead ? fallback : list[d - lead]);
    };
    for (int d = 0; d < R; ++d) {
      in[d] = at(w.in, d, 1);
      kernel[d] = at(w.kernel, d, 1);
      stride[d] = at(w.stride, d, 1);
      padding[d] = at(w.padding, d, 0);
      dilation[d] = at(w.dilation, d, 1);
      out[d] = at(w.out, d, 1);
      const int common = std::gcd(stride[d], dilation[d]);
      tap_step[d] = stride[d] / common;
      position_step[d] = dilation[d] / common;
      by_in[d] = divider(in[d]);
      by_stride[d] = divider(stride[d]);
      by_out[d] = divider(out[d]);
    }
    taps = static_cast<int>(w.taps());
    plane = static_cast<unsigned>(w.in.numel());
    positions = static_cast<unsigned>(w.positions());
  }

#ifdef __CUDACC__
  __device__ void split(unsigned flat, const Divider (&by)[R], int (&index)[R]) const {
#pragma unroll
    for (int d = R - 1; d > 0; --d) {
      const unsigned next = by[d].divide(flat);
      index[d] = static_cast<int>(flat - next * by[d].divisor);
      flat = next;
    }
    index[0] = static_cast<int>(flat);
  }

  // fn(tap, input element) for what the window at a position sees, by rising taps; nothing for taps
  // in the padding.
  template <class Fn>
  __device__ void for_each_input(unsigned position, const Fn& fn) const {
    int index[R];
    split(position, by_out, index);
#pragma unroll
    for (int d = 0; d < R; ++d) index[d] = index[d] * stride[d] - padding[d];
    inputs<0>(index, 0, 0, fn);
  }
  // fn(tap, position) for every window that sees an input element, by rising taps.
  template <class Fn>
  __device__ void for_each_position(unsigned element, const Fn& fn) const {
    int index[R];
    split(element, by_in, index);
#pragma unroll
    for (int d = 0; d < R; ++d) index[d] += padding[d];
    windows<0>(index, 0, 0, fn);
  }

 private:
  template <int D, class Fn>
  __device__ void inputs(const int (&start)[R], int tap, int element, const Fn& fn) const {
    if constexpr (D == R) {
      fn(tap, element);
    } else {
      for (int k = 0; k < kernel[D]; ++k) {
        const int at = start[D] + k * dilation[D];
        if (at < 0 || at >= in[D]) continue;
        inputs<D + 1>(start, tap * kernel[D] + k, element * in[D] + at, fn);
      }
    }
  }
  // Tap k at position p sees element p · stride + k · dilation − padding.
  template <int D, class Fn>
  __device__ void windows(const int (&padded)[R], int tap, int position, const Fn& fn) const {
    if constexpr (D == R) {
      fn(tap, position);
    } else {
      int k = 0;
      int p = static_cast<int>(by_stride[D].divide(static_cast<unsigned>(padded[D])));
      int rest = padded[D] - p * stride[D];
      if (dilation[D] == 1) {
        k = rest;
      } else {
        while (rest != 0) {  // the first tap whose distance is a multiple of the stride
          const int left = padded[D] - ++k * dilation[D];
          if (left < 0 || k >= kernel[D]) return;
          p = static_cast<int>(by_stride[D].divide(static_cast<unsigned>(left)));
          rest = left - p * stride[D];
        }
      }
      for (; k < kernel[D] && p >= 0; k += tap_step[D], p -= position_step[D]) {
        if (p < out[D]) windows<D + 1>(padded, tap * kernel[D] + k, position * out[D] + p, fn);
      }
    }
  }
#endif

 private:
  static Divider divider(int d) {
    return Divider(static_cast<unsigned>(std::max(1, d)));
  }
};

// fn.template operator()<R>() with the number of dimensions kernels are compiled for.
template <class Fn>
decltype(auto) visit_rank(int64_t rank, Fn&& fn) {
  if (rank <= 2) return fn.template operator()<2>();
  if (rank == 3) return fn.template operator()<3>();
  return fn.template operator()<10>();
}

}  // namespace tessera::cuda
