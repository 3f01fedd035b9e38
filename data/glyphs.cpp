#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <vector>

#include "tessera/core/create.h"
#include "tessera/data/drawing.h"

namespace tessera {

namespace {

struct Point {
  double x, y;
};
using Stroke = std::vector<Point>;  // a polyline in the unit square, y downwards
using Glyph = std::vector<Stroke>;

// Degrees clockwise on the screen, from the right: 90 is the lowest point.
Stroke arc(double x, double y, double rx, double ry, double from, double to) {
  constexpr int steps = 10;
  Stroke stroke;
  for (int i = 0; i <= steps; ++i) {
    const double angle = (from + (to - from) * i / steps) * std::numbers::pi / 180;
    stroke.push_back({x + rx * std::cos(angle), y + ry * std::sin(angle)});
  }
  return stroke;
}

Stroke join(Stroke first, const Stroke& second) {
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

// The shapes in which each digit is written.
const std::array<std::vector<Glyph>, 10>& font() {
  static const std::array<std::vector<Glyph>, 10> shapes = {{
      {{arc(.5, .5, .26, .4, 0, 360)}, {arc(.5, .5, .34, .38, -70, 290)}},
      {{{{.5, .1}, {.5, .9}}},
       {{{.34, .28}, {.54, .1}, {.54, .9}}},
       {{{.36, .26}, {.52, .1}, {.52, .9}}, {{.34, .9}, {.7, .9}}}},
      {{join(arc(.5, .32, .26, .22, 190, 380), {{.26, .9}, {.78, .9}})},
       {join(arc(.48, .32, .26, .22, 200, 400), {{.36, .72}, {.26, .86}, {.4, .8}, {.8, .9}})}},
      {{arc(.46, .3, .26, .2, 200, 450), arc(.46, .7, .3, .2, -90, 160)},
       {{{.26, .1}, {.74, .1}, {.48, .42}}, arc(.46, .66, .28, .24, -90, 150)}},
      {{{{.6, .1}, {.22, .62}, {.8, .62}}, {{.6, .1}, {.6, .9}}},
       {{{.3, .12}, {.26, .54}, {.74, .54}}, {{.72, .14}, {.66, .9}}}},
      {{{{.74, .1}, {.32, .1}, {.3, .46}}, arc(.48, .66, .28, .24, 225, 510)},
       {{{.78, .12}, {.36, .14}, {.34, .44}, {.54, .42}}, arc(.5, .66, .24, .24, -80, 150)}},
      {{{{.62, .1}, {.38, .38}, {.28, .66}}, arc(.5, .68, .22, .22, 0, 360)},
       {join(arc(.56, .42, .28, .34, 280, 180), arc(.52, .66, .24, .24, 180, 540))}},
      {{{{.22, .12}, {.78, .12}, {.42, .9}}},
       {{{.22, .14}, {.76, .12}, {.46, .9}}, {{.36, .52}, {.72, .48}}}},
      {{arc(.5, .3, .22, .2, 0, 360), arc(.5, .7, .27, .2, 0, 360)},
       {arc(.52, .28, .18, .18, 90, 450), arc(.48, .68, .22, .22, -90, 270)}},
      {{arc(.5, .32, .23, .22, 0, 360), {{.73, .32}, {.68, .64}, {.58, .9}}},
       {join(arc(.5, .34, .24, .22, 0, 360), arc(.44, .5, .3, .38, -10, 130))}},
  }};
  return shapes;
}

// The glyph with each corner moved a little, then slanted, turned, scaled and placed, in pixels.
Glyph place(const Glyph& glyph, int64_t size, Generator& random) {
  const double side = static_cast<double>(size);
  const double turn = random.uniform(-0.2, 0.2), slant = random.uniform(-0.25, 0.35);
  const double width = side * random.uniform(0.62, 0.86), height = side * random.uniform(0.7, 0.9);
  const double c = std::cos(turn), s = std::sin(turn);
  const double middle_x = side / 2 + random.uniform(-0.07, 0.07) * side;
  const double middle_y = side / 2 + random.uniform(-0.06, 0.06) * side;
  Glyph placed = glyph;
  for (Stroke& stroke : placed) {
    for (Point& p : stroke) {
      const double v = (p.y - 0.5 + 0.012 * random.normal()) * height;
      const double u = (p.x - 0.5 + 0.012 * random.normal()) * width - slant * v;
      p = {middle_x + c * u - s * v, middle_y + s * u + c * v};
    }
  }
  return placed;
}

double distance(Point p, Point a, Point b) {
  const double dx = b.x - a.x, dy = b.y - a.y, length = dx * dx + dy * dy;
  const double along = length > 0 ? ((p.x - a.x) * dx + (p.y - a.y) * dy) / length : 0;
  const double t = std::clamp(along, 0.0, 1.0);
  return std::hypot(p.x - a.x - t * dx, p.y - a.y - t * dy);
}

// Draws a line with a round pen; the ink of a pixel falls off over one pixel at the edge.
void draw_line(const Tensor& image, Point a, Point b, double pen, double ink) {
  const int64_t size = image.size(2);
  const auto clip = [&](double x) {
    return std::clamp<int64_t>(static_cast<int64_t>(std::floor(x)), 0, size - 1);
  };
  const double reach = pen + 1;
  for (int64_t row = clip(std::min(a.y, b.y) - reach); row <= clip(std::max(a.y, b.y) + reach);
       ++row) {
    float* line = image.data<float>() + row * size;
    for (int64_t column = clip(std::min(a.x, b.x) - reach);
         column <= clip(std::max(a.x, b.x) + reach); ++column) {
      const Point p{static_cast<double>(column) + 0.5, static_cast<double>(row) + 0.5};
      const double value = ink * std::clamp(pen + 0.5 - distance(p, a, b), 0.0, 1.0);
      line[column] = std::max(line[column], static_cast<float>(value));
    }
  }
}

}  // namespace

LabelledImage draw_glyph(int64_t size, Generator& random) {
  const int64_t digit = random.below(10);
  const auto& shapes = font()[static_cast<size_t>(digit)];
  const auto shape = static_cast<size_t>(random.below(static_cast<int64_t>(shapes.size())));
  const Glyph glyph = place(shapes[shape], size, random);
  const double pen = static_cast<double>(size) / 28 * random.uniform(0.7, 1.7);
  const double ink = random.uniform(0.75, 1);
  const Tensor image = zeros({1, size, size});
  for (const Stroke& stroke : glyph) {
    for (size_t i = 1; i < stroke.size(); ++i) {
      draw_line(image, stroke[i - 1], stroke[i], pen, ink);
    }
  }
  float* x = image.data<float>();
  for (int64_t i = 0; i < image.numel(); ++i) {
    x[i] = std::clamp(x[i] + static_cast<float>(random.uniform(-0.05, 0.05)), 0.0f, 1.0f);
  }
  return {image, digit};
}

}  // namespace tessera
