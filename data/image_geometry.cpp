#include "tessera/data/image_geometry.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "tessera/core/create.h"
#include "tessera/data/image.h"

namespace tessera {

namespace {

double triangle(double x) {
  return std::max(0.0, 1.0 - std::abs(x));
}

double cubic(double x) {
  constexpr double a = -0.5;
  x = std::abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a;
  return 0;
}

// The input positions first … first + weights.size() that make one output position.
struct Tap {
  int64_t first;
  std::vector<float> weights;
};

Tap make_tap(int64_t out, double scale, int64_t in_size, Resample filter) {
  const double centre = (static_cast<double>(out) + 0.5) * scale;
  if (filter == Resample::nearest) {
    return {std::min(static_cast<int64_t>(centre), in_size - 1), {1.0f}};
  }
  const double widen = std::max(scale, 1.0);
  const double support = (filter == Resample::bilinear ? 1.0 : 2.0) * widen;
  const auto first = std::max<int64_t>(0, static_cast<int64_t>(centre - support + 0.5));
  const auto last = std::min<int64_t>(in_size, static_cast<int64_t>(centre + support + 0.5));
  std::vector<double> weights;
  double total = 0;
  for (int64_t i = first; i < last; ++i) {
    const double x = (static_cast<double>(i) - centre + 0.5) / widen;
    weights.push_back(filter == Resample::bilinear ? triangle(x) : cubic(x));
    total += weights.back();
  }
  Tap tap{first, {}};
  for (double weight : weights) tap.weights.push_back(static_cast<float>(weight / total));
  return tap;
}

std::vector<Tap> make_taps(int64_t in_size, int64_t out_size, Resample filter) {
  const double scale = static_cast<double>(in_size) / static_cast<double>(out_size);
  std::vector<Tap> taps;
  for (int64_t i = 0; i < out_size; ++i) taps.push_back(make_tap(i, scale, in_size, filter));
  return taps;
}

// (C, H, W) to (C, H, taps) along the last dimension.
Tensor resize_rows(const Tensor& x, const std::vector<Tap>& taps) {
  const int64_t rows = x.size(0) * x.size(1), width = x.size(2);
  const auto out_width = static_cast<int64_t>(taps.size());
  const Tensor out = empty({x.size(0), x.size(1), out_width});
  for (int64_t row = 0; row < rows; ++row) {
    const float* in = x.data<float>() + row * width;
    float* to = out.data<float>() + row * out_width;
    for (const Tap& tap : taps) {
      float sum = 0;
      for (size_t k = 0; k < tap.weights.size(); ++k) {
        sum += tap.weights[k] * in[tap.first + static_cast<int64_t>(k)];
      }
      *to++ = sum;
    }
  }
  return out;
}

// (C, H, W) to (C, taps, W) along the middle dimension.
Tensor resize_columns(const Tensor& x, const std::vector<Tap>& taps) {
  const int64_t channels = x.size(0), height = x.size(1), width = x.size(2);
  const auto out_height = static_cast<int64_t>(taps.size());
  const Tensor out = zeros({channels, out_height, width});
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t y = 0; y < out_height; ++y) {
      const Tap& tap = taps[static_cast<size_t>(y)];
      float* to = out.data<float>() + (c * out_height + y) * width;
      for (size_t k = 0; k < tap.weights.size(); ++k) {
        const int64_t row = tap.first + static_cast<int64_t>(k);
        const float* in = x.data<float>() + (c * height + row) * width;
        for (int64_t i = 0; i < width; ++i) to[i] += tap.weights[k] * in[i];
      }
    }
  }
  return out;
}

// out(c, y, x) = source(c, y, x)
template <class Source>
Tensor generate(int64_t channels, int64_t height, int64_t width, const Source& source) {
  const Tensor out = empty({channels, height, width});
  float* to = out.data<float>();
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t y = 0; y < height; ++y) {
      for (int64_t x = 0; x < width; ++x) *to++ = source(c, y, x);
    }
  }
  return out;
}

struct Reader {
  const float* data;
  int64_t height, width;
  float fill;
  float operator()(int64_t c, int64_t y, int64_t x) const {
    const bool inside = y >= 0 && y < height && x >= 0 && x < width;
    return inside ? data[(c * height + y) * width + x] : fill;
  }
};

Reader reader(const Tensor& x, double fill) {
  return {x.data<float>(), x.size(1), x.size(2), static_cast<float>(fill)};
}

void check_output(int64_t height, int64_t width, const Tensor& x, std::string_view op) {
  check(height > 0 && width > 0 && height <= kMaxPixels / width,
        "{}: output size {} x {} is outside 1 … {} pixels", op, height, width, kMaxPixels);
  check(x.numel() > 0, "{}: the image {} is empty", op, x.shape());
}

bool in_unit_range(const Tensor& x) {
  const float* data = x.data<float>();
  return std::all_of(data, data + x.numel(), [](float v) { return v >= 0 && v <= 1; });
}

void clamp_to_unit(const Tensor& x) {
  float* data = x.data<float>();
  for (int64_t i = 0; i < x.numel(); ++i) data[i] = std::clamp(data[i], 0.0F, 1.0F);
}

}  // namespace

Tensor resize(const Tensor& image, int64_t height, int64_t width, Resample filter) {
  Tensor x = as_image(image, "resize");
  check_output(height, width, x, "resize");
  const bool bounded = filter == Resample::bicubic && in_unit_range(x);
  if (x.size(2) != width) x = resize_rows(x, make_taps(x.size(2), width, filter));
  if (bounded) clamp_to_unit(x);
  if (x.size(1) != height) x = resize_columns(x, make_taps(x.size(1), height, filter));
  if (bounded) clamp_to_unit(x);
  return x;
}

Tensor resize_shorter(const Tensor& image, int64_t size, Resample filter) {
  const Tensor x = as_image(image, "resize");
  const int64_t height = x.size(1), width = x.size(2);
  check_output(size, size, x, "resize");
  return height <= width ? resize(x, size, size * width / height, filter)
                         : resize(x, size * height / width, size, filter);
}

Tensor crop(const Tensor& image, int64_t y, int64_t x, int64_t height, int64_t width, double fill) {
  const Tensor in = as_image(image, "crop");
  check_output(height, width, in, "crop");
  const Reader read = reader(in, fill);
  return generate(in.size(0), height, width, [&](int64_t c, int64_t row, int64_t column) {
    return read(c, y + row, x + column);
  });
}

Tensor center_crop(const Tensor& image, int64_t height, int64_t width) {
  const Tensor x = as_image(image, "center_crop");
  const auto start = [](int64_t have, int64_t want) {
    return static_cast<int64_t>(std::nearbyint(static_cast<double>(have - want) / 2.0));
  };
  return crop(x, start(x.size(1), height), start(x.size(2), width), height, width);
}

Tensor pad_reflect(const Tensor& image, int64_t padding) {
  const Tensor x = as_image(image, "pad_reflect");
  const int64_t height = x.size(1), width = x.size(2);
  check(padding >= 0 && padding < height && padding < width,
        "pad_reflect: padding {} does not fit into an image {}", padding, x.shape());
  const Reader read = reader(x, 0);
  const auto mirror = [&](int64_t i, int64_t size) {
    i = std::abs(i - padding);
    return i < size ? i : 2 * (size - 1) - i;
  };
  return generate(x.size(0), height + 2 * padding, width + 2 * padding,
                  [&](int64_t c, int64_t row, int64_t column) {
                    return read(c, mirror(row, height), mirror(column, width));
                  });
}

Tensor flip_horizontal(const Tensor& image) {
  const Tensor x = as_image(image, "flip_horizontal");
  const Reader read = reader(x, 0);
  return generate(x.size(0), x.size(1), x.size(2), [&](int64_t c, int64_t row, int64_t column) {
    return read(c, row, x.size(2) - 1 - column);
  });
}

AffineMap affine_map(double angle, double scale, double shear, double dx, double dy) {
  // Inverse of p ↦ R(−angle)·Shear·scale·p + d; y grows downwards, so counter-clockwise on the
  // screen is a negative angle.
  const double c = std::cos(angle), s = std::sin(angle), t = std::tan(shear);
  const std::array<double, 4> inverse = {(c - t * s) / scale, (-s - t * c) / scale, s / scale,
                                         c / scale};
  return {inverse[0], inverse[1], -(inverse[0] * dx + inverse[1] * dy),
          inverse[2], inverse[3], -(inverse[2] * dx + inverse[3] * dy)};
}

Tensor warp(const Tensor& image, const AffineMap& map, double fill) {
  const Tensor in = as_image(image, "warp");
  const Reader read = reader(in, fill);
  const double middle_y = static_cast<double>(in.size(1) - 1) / 2;
  const double middle_x = static_cast<double>(in.size(2) - 1) / 2;
  const double limit = 1e9;
  return generate(in.size(0), in.size(1), in.size(2), [&](int64_t c, int64_t row, int64_t column) {
    const double x = static_cast<double>(column) - middle_x;
    const double y = static_cast<double>(row) - middle_y;
    const double u = std::clamp(map[0] * x + map[1] * y + map[2] + middle_x, -limit, limit);
    const double v = std::clamp(map[3] * x + map[4] * y + map[5] + middle_y, -limit, limit);
    const auto left = static_cast<int64_t>(std::floor(u));
    const auto top = static_cast<int64_t>(std::floor(v));
    const auto fx = static_cast<float>(u - std::floor(u));
    const auto fy = static_cast<float>(v - std::floor(v));
    const float above = read(c, top, left) * (1 - fx) + read(c, top, left + 1) * fx;
    const float below = read(c, top + 1, left) * (1 - fx) + read(c, top + 1, left + 1) * fx;
    return above * (1 - fy) + below * fy;
  });
}

}  // namespace tessera
