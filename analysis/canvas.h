// A picture to draw on: 8-bit RGB, x to the right, y downwards, (0, 0) the upper left pixel. What
// lies outside is cut off.
#pragma once

#include <filesystem>
#include <span>
#include <string_view>
#include <vector>

#include "tessera/analysis/color.h"
#include "tessera/core/tensor.h"

namespace tessera {

struct Point {
  double x = 0, y = 0;
};

struct TextStyle {
  Color color = colors::kInk;
  int64_t scale = 1;    // pixels of a dot of the font (analysis/font.h)
  double align = 0;     // share of the width that lies left of x: 0, 0.5, 1
  bool upward = false;  // turned to the left by 90°; x, y is then where its lower left corner goes
};

int64_t text_width(std::string_view text, int64_t scale = 1);
int64_t text_height(int64_t scale = 1);  // of a line, descenders included

class Canvas {
 public:
  Canvas(int64_t width, int64_t height, Color paper = colors::kWhite);

  int64_t width() const { return width_; }
  int64_t height() const { return height_; }
  Color pixel(int64_t x, int64_t y) const;  // throws outside

  void set(int64_t x, int64_t y, Color color);
  void blend(int64_t x, int64_t y, Color color, double opacity);
  void rectangle(int64_t x, int64_t y, int64_t width, int64_t height, Color color,
                 double opacity = 1);
  void frame(int64_t x, int64_t y, int64_t width, int64_t height, Color color);  // its border
  // Anti-aliased strokes; pixel (x, y) has its centre there. Points that are not finite interrupt.
  void polyline(std::span<const Point> points, Color color, double width = 1.6);
  void line(Point from, Point to, Color color, double width = 1);
  void disc(Point center, double radius, Color color);
  void text(int64_t x, int64_t y, std::string_view text, const TextStyle& style = {});
  void paste(int64_t x, int64_t y, const Canvas& other);
  // An image (1|3, H, W) of floats in [0, 1], enlarged or shrunk to width × height: squares where
  // it grows, means where it shrinks.
  void image(int64_t x, int64_t y, int64_t width, int64_t height, const Tensor& image);

  Tensor to_tensor() const;  // (3, height, width) f32 in [0, 1]
  std::string to_png() const;
  void save(const std::filesystem::path& file) const;  // as PNG

 private:
  // Lays ink over the box; coverage(x, y) in [0, 1].
  template <class Coverage>
  void ink(double left, double top, double right, double bottom, Color color, Coverage coverage);

  int64_t width_, height_;
  std::vector<Color> pixels_;
};

}  // namespace tessera
