#include "tessera/analysis/canvas.h"

#include <algorithm>
#include <cmath>

#include "tessera/analysis/font.h"
#include "tessera/core/create.h"
#include "tessera/data/image.h"

namespace tessera {
namespace {

constexpr int64_t kLargest = 1 << 15;  // pixels of a side

double distance(Point p, Point a, Point b) {
  const double dx = b.x - a.x, dy = b.y - a.y, square = dx * dx + dy * dy;
  const double along =
      square == 0 ? 0 : std::clamp(((p.x - a.x) * dx + (p.y - a.y) * dy) / square, 0.0, 1.0);
  return std::hypot(p.x - a.x - along * dx, p.y - a.y - along * dy);
}

bool finite(Point p) {
  return std::isfinite(p.x) && std::isfinite(p.y);
}

}  // namespace

int64_t text_width(std::string_view text, int64_t scale) {
  const auto letters = static_cast<int64_t>(font::symbols(text).size());
  return std::max<int64_t>(0, letters * font::kAdvance - 1) * scale;
}

int64_t text_height(int64_t scale) {
  return font::kRows * scale;
}

Canvas::Canvas(int64_t width, int64_t height, Color paper) : width_(width), height_(height) {
  check(width >= 1 && height >= 1 && width <= kLargest && height <= kLargest,
        "canvas: {} x {} pixels are outside 1 … {}", width, height, kLargest);
  pixels_.assign(static_cast<size_t>(width * height), paper);
}

Color Canvas::pixel(int64_t x, int64_t y) const {
  check(x >= 0 && y >= 0 && x < width_ && y < height_, "canvas: no pixel ({}, {}) in {} x {}", x, y,
        width_, height_);
  return pixels_[static_cast<size_t>(y * width_ + x)];
}

void Canvas::set(int64_t x, int64_t y, Color color) {
  if (x < 0 || y < 0 || x >= width_ || y >= height_) return;
  pixels_[static_cast<size_t>(y * width_ + x)] = color;
}

void Canvas::blend(int64_t x, int64_t y, Color color, double opacity) {
  if (x < 0 || y < 0 || x >= width_ || y >= height_) return;
  Color& at = pixels_[static_cast<size_t>(y * width_ + x)];
  at = mix(at, color, std::clamp(opacity, 0.0, 1.0));
}

void Canvas::rectangle(int64_t x, int64_t y, int64_t width, int64_t height, Color color,
                       double opacity) {
  const int64_t right = std::min(x + width, width_), bottom = std::min(y + height, height_);
  for (int64_t j = std::max<int64_t>(y, 0); j < bottom; ++j) {
    for (int64_t i = std::max<int64_t>(x, 0); i < right; ++i) blend(i, j, color, opacity);
  }
}

void Canvas::frame(int64_t x, int64_t y, int64_t width, int64_t height, Color color) {
  rectangle(x, y, width, 1, color);
  rectangle(x, y + height - 1, width, 1, color);
  rectangle(x, y, 1, height, color);
  rectangle(x + width - 1, y, 1, height, color);
}

template <class Coverage>
void Canvas::ink(double left, double top, double right, double bottom, Color color,
                 Coverage coverage) {
  const auto bound = [](double x, int64_t size) {
    return static_cast<int64_t>(std::clamp(x, -1.0, static_cast<double>(size)));
  };
  for (int64_t y = bound(top, height_); y <= bound(bottom + 1, height_); ++y) {
    for (int64_t x = bound(left, width_); x <= bound(right + 1, width_); ++x) {
      const double share = coverage(Point{static_cast<double>(x), static_cast<double>(y)});
      if (share > 0) blend(x, y, color, share);
    }
  }
}

// A pixel on a joint belongs to the earlier segment when that is as near, so that no ink is laid
// twice.
void Canvas::polyline(std::span<const Point> points, Color color, double width) {
  const double reach = width / 2 + 0.5;
  for (size_t i = 0; i + 1 < points.size(); ++i) {
    const Point a = points[i], b = points[i + 1];
    if (!finite(a) || !finite(b)) continue;
    const auto coverage = [&](size_t j, Point p) {
      if (!finite(points[j]) || !finite(points[j + 1])) return 0.0;
      return std::clamp(reach - distance(p, points[j], points[j + 1]), 0.0, 1.0);
    };
    // The neighbours alone can share a pixel at a joint; crossings may darken.
    ink(std::min(a.x, b.x) - reach, std::min(a.y, b.y) - reach, std::max(a.x, b.x) + reach,
        std::max(a.y, b.y) + reach, color, [&](Point p) {
          const double here = coverage(i, p);
          const double before = i > 0 ? coverage(i - 1, p) : 0;
          return before >= 1 ? 0 : std::max(0.0, (here - before) / (1 - before));
        });
  }
}

void Canvas::line(Point from, Point to, Color color, double width) {
  const Point ends[] = {from, to};
  polyline(ends, color, width);
}

void Canvas::disc(Point center, double radius, Color color) {
  if (!finite(center)) return;
  ink(center.x - radius, center.y - radius, center.x + radius, center.y + radius, color,
      [&](Point p) {
        return std::clamp(radius + 0.5 - std::hypot(p.x - center.x, p.y - center.y), 0.0, 1.0);
      });
}

void Canvas::text(int64_t x, int64_t y, std::string_view text, const TextStyle& style) {
  const int64_t shift =
      std::llround(style.align * static_cast<double>(text_width(text, style.scale)));
  int64_t along = -shift;
  const int64_t s = style.scale;
  for (const char32_t symbol : font::symbols(text)) {
    for (int64_t row = 0; row < font::kRows; ++row) {
      for (int64_t column = 0; column < font::kAdvance; ++column) {
        if (!font::ink(symbol, row, column)) continue;
        const int64_t forth = along + column * s, down = row * s;
        if (style.upward) {
          rectangle(x + down, y - forth - s + 1, s, s, style.color);
        } else {
          rectangle(x + forth, y + down, s, s, style.color);
        }
      }
    }
    along += font::kAdvance * s;
  }
}

void Canvas::paste(int64_t x, int64_t y, const Canvas& other) {
  for (int64_t j = 0; j < other.height_; ++j) {
    for (int64_t i = 0; i < other.width_; ++i) set(x + i, y + j, other.pixel(i, j));
  }
}

void Canvas::image(int64_t x, int64_t y, int64_t width, int64_t height, const Tensor& picture) {
  const Tensor in = as_image(picture, "canvas");
  const int64_t h = in.size(1), w = in.size(2), planes = in.size(0);
  check((planes == 1 || planes == 3) && h > 0 && w > 0,
        "canvas: wants an image (1, H, W) or (3, H, W), got {}", in.shape());
  // Pixel i of `count` covers the source's pixels from begin(i) to end(i).
  const auto begin = [](int64_t i, int64_t size, int64_t count) { return i * size / count; };
  const auto end = [](int64_t i, int64_t size, int64_t count) {
    return std::max(i * size / count + 1, (i + 1) * size / count);
  };
  const auto channel = [&](int64_t c, int64_t i, int64_t j) {
    const float* plane = in.data<float>() + std::min(c, planes - 1) * h * w;
    double sum = 0, count = 0;
    for (int64_t row = begin(j, h, height); row < end(j, h, height); ++row) {
      for (int64_t column = begin(i, w, width); column < end(i, w, width); ++column) {
        sum += plane[row * w + column];
        ++count;
      }
    }
    const double value = 255 * sum / count;
    return static_cast<uint8_t>(std::isnan(value) ? 0 : std::lround(std::clamp(value, 0.0, 255.0)));
  };
  for (int64_t j = 0; j < height; ++j) {
    for (int64_t i = 0; i < width; ++i) {
      set(x + i, y + j, {channel(0, i, j), channel(1, i, j), channel(2, i, j)});
    }
  }
}

Tensor Canvas::to_tensor() const {
  const Tensor out = empty({3, height_, width_});
  auto* data = out.data<float>();
  const size_t plane = pixels_.size();
  for (size_t i = 0; i < plane; ++i) {
    data[i] = static_cast<float>(pixels_[i].r) / 255.0F;
    data[plane + i] = static_cast<float>(pixels_[i].g) / 255.0F;
    data[2 * plane + i] = static_cast<float>(pixels_[i].b) / 255.0F;
  }
  return out;
}

std::string Canvas::to_png() const {
  return encode_png(to_tensor());
}

void Canvas::save(const std::filesystem::path& file) const {
  save_png(file, to_tensor());
}

}  // namespace tessera
