#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "tessera/core/create.h"
#include "tessera/data/drawing.h"

namespace tessera {

namespace {

constexpr int64_t kSide = 32;
using Colour = std::array<double, 3>;

// Whether shape `kind` covers the point (u, v) of its own frame, v downwards.
bool covers(int64_t kind, double u, double v) {
  const double a = std::abs(u), b = std::abs(v);
  const double largest = std::max(a, b), smallest = std::min(a, b), square = u * u + v * v;
  switch (kind) {
    case 0:
      return square <= 0.64;
    case 1:
      return square >= 0.25 && square <= 0.81;
    case 2:
      return largest <= 0.75;
    case 3:
      return largest >= 0.45 && largest <= 0.8;
    case 4:
      return v >= -0.8 && v <= 0.7 && a <= 0.8 * (v + 0.8) / 1.5;
    case 5:
      return covers(4, u, -v);
    case 6:
      return largest <= 0.85 && smallest <= 0.25;
    case 7:
      return covers(6, (u + v) / std::numbers::sqrt2, (v - u) / std::numbers::sqrt2);
    case 8:
      return a <= 0.8 && b >= 0.3 && b <= 0.75;
    default:
      return covers(8, v, u);
  }
}

struct Placement {
  int64_t kind;
  double radius, x, y, tilt;
};

// The part of a pixel that the shape covers, by 2 x 2 samples.
double coverage(const Placement& shape, int64_t row, int64_t column) {
  const double c = std::cos(shape.tilt), s = std::sin(shape.tilt);
  double covered = 0;
  for (double dy : {0.25, 0.75}) {
    for (double dx : {0.25, 0.75}) {
      const double x = (static_cast<double>(column) + dx - shape.x) / shape.radius;
      const double y = (static_cast<double>(row) + dy - shape.y) / shape.radius;
      if (covers(shape.kind, c * x + s * y, c * y - s * x)) covered += 0.25;
    }
  }
  return covered;
}

Colour around(double level, Generator& random) {
  Colour colour{};
  for (double& channel : colour) channel = level + random.uniform(-0.1, 0.1);
  return colour;
}

// value(channel, row, column) for every pixel.
template <class Value>
Tensor paint(const Value& value) {
  const Tensor image = empty({3, kSide, kSide});
  float* to = image.data<float>();
  for (size_t c = 0; c < 3; ++c) {
    for (int64_t row = 0; row < kSide; ++row) {
      for (int64_t column = 0; column < kSide; ++column) {
        *to++ = static_cast<float>(value(c, row, column));
      }
    }
  }
  return image;
}

void paint_block(const Tensor& image, int64_t row, int64_t column, int64_t side,
                 const Colour& colour) {
  for (size_t c = 0; c < 3; ++c) {
    float* plane = image.data<float>() + static_cast<int64_t>(c) * kSide * kSide;
    for (int64_t y = row; y < row + side; ++y) {
      std::fill_n(plane + y * kSide + column, side, static_cast<float>(colour[c]));
    }
  }
}

void add_noise(const Tensor& image, double deviation, Generator& random) {
  float* x = image.data<float>();
  for (int64_t i = 0; i < image.numel(); ++i) {
    x[i] = std::clamp(x[i] + static_cast<float>(deviation * random.normal()), 0.0f, 1.0f);
  }
}

}  // namespace

LabelledImage draw_shape(Generator& random) {
  constexpr double side = kSide;
  const int64_t kind = random.below(10);
  const Colour back = around(random.uniform(0.1, 0.35), random);
  const double turn = random.uniform(0, 2 * std::numbers::pi);
  const Colour fore = around(random.uniform(0.65, 0.9), random);
  const double radius = random.uniform(7, 11);
  const double x = random.uniform(radius + 1, side - radius - 1);
  const double y = random.uniform(radius + 1, side - radius - 1);
  const double tilt = random.uniform(-15, 15) * std::numbers::pi / 180;
  const Placement shape{kind, radius, x, y, tilt};
  const Tensor image = paint([&](size_t c, int64_t row, int64_t column) {
    const double slope = 0.2 * ((static_cast<double>(column) / side - 0.5) * std::cos(turn) +
                                (static_cast<double>(row) / side - 0.5) * std::sin(turn));
    const double covered = coverage(shape, row, column);
    return (1 - covered) * (back[c] + slope) + covered * fore[c];
  });
  for (int i = 0; i < 2; ++i) {
    const int64_t block = 2 + random.below(2);
    const int64_t row = random.below(kSide - block + 1), column = random.below(kSide - block + 1);
    const Colour colour{random.uniform(), random.uniform(), random.uniform()};
    paint_block(image, row, column, block, colour);
  }
  add_noise(image, 0.08, random);
  return {image, kind};
}

LabelledImage draw_odd_corner(Generator& random) {
  constexpr std::array<Colour, 4> colours = {
      {{0.9, 0.1, 0.1}, {0.1, 0.9, 0.1}, {0.1, 0.1, 0.9}, {0.9, 0.9, 0.1}}};
  constexpr int64_t block = 6;
  const double grey = random.uniform(0.4, 0.6);
  const Tensor image = full({3, kSide, kSide}, grey);
  const int64_t common = random.below(4);
  const int64_t odd = (common + 1 + random.below(3)) % 4;
  const int64_t bare_corner = random.below(4);
  const int64_t odd_corner = (bare_corner + 1 + random.below(3)) % 4;
  for (int64_t corner = 0; corner < 4; ++corner) {
    if (corner == bare_corner) continue;
    const int64_t dy = random.below(3), dx = random.below(3);
    const int64_t row = corner / 2 == 0 ? dy : kSide - block - dy;
    const int64_t column = corner % 2 == 0 ? dx : kSide - block - dx;
    paint_block(image, row, column, block,
                colours[static_cast<size_t>(corner == odd_corner ? odd : common)]);
  }
  add_noise(image, 0.05, random);
  return {image, odd};
}

}  // namespace tessera
