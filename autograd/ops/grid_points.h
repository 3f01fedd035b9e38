// The pixels that a point of grid_sample reads, and their weights: for the CPU and CUDA kernels.
#pragma once

#include <cmath>

#include "tessera/autograd/ops/grid_sample.h"
#include "tessera/core/inline.h"

namespace tessera::detail {

// A pixel position and its derivative by the grid coordinate.
struct Position {
  double value;
  double slope;
};

TESSERA_HD inline Position reflected(Position p, double low, double high) {
  const double span = high - low;
  if (span <= 0) return {0, 0};
  double inside = p.value - low;
  if (inside < 0) p = {p.value, -p.slope};
  inside = std::abs(inside);
  const double rest = std::fmod(inside, span);
  const bool even = std::fmod(std::floor(inside / span), 2) == 0;
  return even ? Position{low + rest, p.slope} : Position{high - rest, -p.slope};
}

TESSERA_HD inline Position clamped(Position p, double last) {
  if (!(p.value > 0)) return {0, 0};  // NaN too
  return p.value < last ? p : Position{last, 0};
}

TESSERA_HD inline Position locate(double coordinate, int64_t size,
                                  const GridSampleOptions& options) {
  const auto n = static_cast<double>(size);
  const double slope = (options.align_corners ? n - 1 : n) / 2;
  Position p{(coordinate + 1) * slope - (options.align_corners ? 0 : 0.5), slope};
  if (options.padding == GridPadding::reflection) {
    p = options.align_corners ? reflected(p, 0, n - 1) : reflected(p, -0.5, n - 0.5);
  }
  if (options.padding != GridPadding::zeros) p = clamped(p, n - 1);
  return std::abs(p.value) < 1e9 ? p : Position{-100, 0};  // far outside, NaN: no pixel
}

// The up to four pixels that make one output, their weights, and the derivatives of these by the
// two grid coordinates. An index of −1 is outside the image.
template <class T>
struct Corners {
  int64_t index[4] = {-1, -1, -1, -1};
  T weight[4] = {};
  T dx[4] = {};
  T dy[4] = {};
};

TESSERA_HD inline int64_t pixel(int64_t y, int64_t x, int64_t height, int64_t width) {
  return y >= 0 && y < height && x >= 0 && x < width ? y * width + x : -1;
}

template <class T>
TESSERA_HD Corners<T> corners_of(Position px, Position py, int64_t height, int64_t width,
                                 bool nearest) {
  Corners<T> c;
  if (nearest) {
    c.index[0] = pixel(std::llrint(py.value), std::llrint(px.value), height, width);
    c.weight[0] = 1;
    return c;
  }
  const double x0 = std::floor(px.value);
  const double y0 = std::floor(py.value);
  for (int k = 0; k < 4; ++k) {
    const int right = k % 2;
    const int below = k / 2;
    const double wx = right ? px.value - x0 : 1 - (px.value - x0);
    const double wy = below ? py.value - y0 : 1 - (py.value - y0);
    c.index[k] =
        pixel(static_cast<int64_t>(y0) + below, static_cast<int64_t>(x0) + right, height, width);
    c.weight[k] = static_cast<T>(wx * wy);
    c.dx[k] = static_cast<T>((right ? px.slope : -px.slope) * wy);
    c.dy[k] = static_cast<T>((below ? py.slope : -py.slope) * wx);
  }
  return c;
}

}  // namespace tessera::detail
