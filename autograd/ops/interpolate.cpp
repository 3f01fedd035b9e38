#include "tessera/autograd/ops/interpolate.h"

#include <cmath>

#include "tessera/autograd/ops/axis_map.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/registry.h"

namespace tessera {
namespace {

// Keys 1981, "Cubic Convolution Interpolation for Digital Image Processing".
double cubic_filter(double x, double a) {
  x = std::abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

double linear_filter(double x) {
  return std::max(0.0, 1 - std::abs(x));
}

// The source position of output i.
double position(int64_t i, int64_t in, int64_t out, bool align_corners) {
  if (align_corners) {
    return out > 1 ? static_cast<double>(i * (in - 1)) / static_cast<double>(out - 1) : 0;
  }
  return (static_cast<double>(i) + 0.5) * static_cast<double>(in) / static_cast<double>(out) - 0.5;
}

// Two (linear) or four (cubic) neighbours of the position; those beyond an edge are the edge.
void add_neighbours(AxisTable& table, double at, bool cubic) {
  const int64_t last = table.in - 1;
  if (!cubic) at = std::clamp(at, 0.0, static_cast<double>(last));
  const auto left = static_cast<int64_t>(std::floor(at));
  for (int64_t j = cubic ? left - 1 : left; j <= left + (cubic ? 2 : 1); ++j) {
    const double distance = at - static_cast<double>(j);
    const double weight = cubic ? cubic_filter(distance, -0.75) : linear_filter(distance);
    if (weight != 0) table.add(std::clamp<int64_t>(j, 0, last), weight);
  }
}

// The filter stretched by the shrinking factor, its weights normalised.
void add_filtered(AxisTable& table, double at, double shrink, bool cubic) {
  const double support = (cubic ? 2 : 1) * shrink;
  const auto first = std::max<int64_t>(0, static_cast<int64_t>(std::floor(at - support + 1)));
  const auto stop = std::min(table.in, static_cast<int64_t>(std::floor(at + support + 1)));
  std::vector<double> weights;
  double total = 0;
  for (int64_t j = first; j < stop; ++j) {
    const double distance = (static_cast<double>(j) - at) / shrink;
    weights.push_back(cubic ? cubic_filter(distance, -0.5) : linear_filter(distance));
    total += weights.back();
  }
  for (int64_t j = first; j < stop; ++j) {
    table.add(j, weights[static_cast<size_t>(j - first)] / total);
  }
}

AxisTable resize_table(int64_t in, int64_t out, const InterpolateOptions& options) {
  AxisTable table;
  table.in = in;
  const bool cubic = options.mode == Interpolation::bicubic;
  const double shrink = std::max(1.0, static_cast<double>(in) / static_cast<double>(out));
  for (int64_t i = 0; i < out; ++i) {
    const double at = position(i, in, out, options.align_corners);
    if (options.mode == Interpolation::nearest) {
      table.add(i * in / out, 1);
    } else if (options.antialias) {
      add_filtered(table, at, shrink, cubic);
    } else {
      add_neighbours(table, at, cubic);
    }
    table.end_row();
  }
  return table;
}

std::vector<OpSample> interpolate_samples() {
  const auto sample = [](const char* label, const Tensor& x, const Shape& size,
                         const InterpolateOptions& options) {
    return OpSample{
        label,
        {x},
        [=](const TensorList& in) { return TensorList{interpolate(in[0], size, options)}; },
        {}};
  };
  const Tensor x = samples::normal({2, 2, 3, 4});
  const auto nearest = Interpolation::nearest;
  const auto cubic = Interpolation::bicubic;
  return {sample("nearest", x, {5, 3}, {.mode = nearest}),
          sample("bilinear", x, {6, 3}, {}),
          sample("bilinear, corners", x, {5, 1}, {.align_corners = true}),
          sample("bilinear, antialias", x, {2, 9}, {.antialias = true}),
          sample("bicubic", x, {5, 5}, {.mode = cubic}),
          sample("bicubic, corners", x, {2, 7}, {.mode = cubic, .align_corners = true}),
          sample("bicubic, antialias", x, {2, 2}, {.mode = cubic, .antialias = true}),
          sample("the same size", x, {3, 4}, {}),
          sample("one dimension", samples::normal({1, 2, 5}), {3}, {}),
          sample("strided", samples::strided(x), {4, 4}, {}),
          sample("no samples", samples::normal({0, 2, 3, 4}), {2, 2}, {})};
}

const RegisterOp interpolate_row{{
    .name = "interpolate",
    .formula = "y[b, c, i, j] = Σ_{h, w} filter(i, h) filter(j, w) x[b, c, h, w]",
    .source = "PyTorch's conventions",
    .samples = interpolate_samples,
    .wrong_calls = {[] {
                      interpolate(samples::normal({2, 2}), {1});
                    },
                    [] {
                      interpolate(samples::normal({1, 1, 2, 2}), {1});
                    },
                    [] {
                      interpolate(samples::normal({1, 1, 2, 2}), {0, 1});
                    },
                    [] {
                      interpolate(samples::normal({1, 1, 0, 2}), {1, 1});
                    },
                    [] {
                      interpolate(samples::normal({1, 1, 2, 2}), {1, 1},
                                  {.mode = Interpolation::nearest, .antialias = true});
                    },
                    [] {
                      interpolate(samples::normal({1, 1, 2, 2}), {1, 1},
                                  {.align_corners = true, .antialias = true});
                    }},
}};

const RegisterOp shuffle_row{{
    .name = "pixel_shuffle",
    .formula = "y[b, c, h r + i, w r + j] = x[b, c r² + i r + j, h, w]",
    .source = "Shi et al. 2016, Efficient Sub-Pixel Convolutional Neural Network",
    .samples =
        [] {
          return std::vector<OpSample>{
              {"2 × 2",
               {samples::normal({2, 8, 2, 3})},
               [](const TensorList& x) { return TensorList{pixel_shuffle(x[0], 2)}; },
               {}}};
        },
    .wrong_calls = {[] {
                      pixel_shuffle(samples::normal({1, 6, 2, 2}), 2);
                    },
                    [] {
                      pixel_shuffle(samples::normal({1, 4, 2, 2}), 0);
                    },
                    [] {
                      pixel_shuffle(samples::normal({4, 2, 2}), 2);
                    }},
}};

const RegisterOp unshuffle_row{{
    .name = "pixel_unshuffle",
    .formula = "y[b, c r² + i r + j, h, w] = x[b, c, h r + i, w r + j]",
    .source = "",
    .samples =
        [] {
          return std::vector<OpSample>{
              {"2 × 2",
               {samples::normal({2, 2, 4, 6})},
               [](const TensorList& x) { return TensorList{pixel_unshuffle(x[0], 2)}; },
               {}}};
        },
    .wrong_calls = {[] {
                      pixel_unshuffle(samples::normal({1, 1, 3, 4}), 2);
                    },
                    [] {
                      pixel_unshuffle(samples::normal({4, 4}), 2);
                    }},
}};

}  // namespace

Tensor interpolate(const Tensor& x, const Shape& size, const InterpolateOptions& options) {
  check(
      x.rank() >= 3 && size.rank() == x.rank() - 2,
      "interpolate: x must be (B, C, spatial…) with one size per spatial dimension, got {} and {}",
      x.shape(), size);
  check(options.mode != Interpolation::nearest || (!options.align_corners && !options.antialias),
        "interpolate: nearest takes neither align_corners nor antialias");
  check(!options.align_corners || !options.antialias,
        "interpolate: antialias and align_corners exclude each other");
  Tensor y = x;
  for (int64_t d = 0; d < size.rank(); ++d) {
    const int64_t in = x.size(d + 2);
    check(in >= 1 && size[d] >= 1, "interpolate: cannot resize x {} to {}", x.shape(), size);
    if (in == size[d]) continue;
    y = axis_map(y, d + 2, resize_table(in, size[d], options), "interpolate");
  }
  return y;
}

Tensor pixel_shuffle(const Tensor& x, int64_t r) {
  check(x.rank() == 4 && r >= 1 && x.size(1) % (r * r) == 0,
        "pixel_shuffle: x {} must be (B, C · {}², H, W)", x.shape(), r);
  const int64_t c = x.size(1) / (r * r);
  const Tensor parts = reshape(x, {x.size(0), c, r, r, x.size(2), x.size(3)});
  return reshape(permute(parts, {0, 1, 4, 2, 5, 3}), {x.size(0), c, x.size(2) * r, x.size(3) * r});
}

Tensor pixel_unshuffle(const Tensor& x, int64_t r) {
  check(x.rank() == 4 && r >= 1 && x.size(2) % r == 0 && x.size(3) % r == 0,
        "pixel_unshuffle: x {} must be (B, C, H · {}, W · {})", x.shape(), r, r);
  const int64_t h = x.size(2) / r;
  const int64_t w = x.size(3) / r;
  const Tensor parts = reshape(x, {x.size(0), x.size(1), h, r, w, r});
  return reshape(permute(parts, {0, 1, 3, 5, 2, 4}), {x.size(0), x.size(1) * r * r, h, w});
}

}  // namespace tessera
