#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "tessera/analysis/axes.h"
#include "tessera/analysis/plot.h"
#include "tessera/core/kernels/copy.h"

namespace tessera {
namespace {

constexpr int64_t kGap = 8;
constexpr int64_t kSide = 320;  // pixels that a map takes when nothing is said
constexpr int64_t kBar = 12;

struct Range {
  double low, high;
  ColorMap map;
  Color color(double value) const { return map_color((value - low) / (high - low), map); }
};

Range range_of(const std::vector<double>& values, std::optional<double> low,
               std::optional<double> high, ColorMap map) {
  double least = INFINITY, most = -INFINITY;
  for (const double v : values) {
    if (!std::isfinite(v)) continue;
    least = std::min(least, v);
    most = std::max(most, v);
  }
  if (!(least <= most)) least = 0, most = 1;
  if (map == ColorMap::diverging) {
    most = std::max(std::abs(least), std::abs(most));
    least = -most;
  }
  Range range{low.value_or(least), high.value_or(most), map};
  if (!(range.high > range.low)) range.high = range.low + std::max(1e-9, std::abs(range.low));
  return range;
}

// Every how many of `count` cells of `cell` pixels a tick of `pixels` pixels has room.
int64_t tick_stride(int64_t count, int64_t cell, int64_t pixels) {
  const int64_t least = (pixels + cell - 1) / cell;
  for (int64_t power = 1;; power *= 10) {
    for (const int64_t factor : {1, 2, 5}) {
      if (factor * power >= least || factor * power >= count) return factor * power;
    }
  }
}

std::string name_of(const std::vector<std::string>& names, int64_t i) {
  return static_cast<size_t>(i) < names.size() ? names[static_cast<size_t>(i)] : std::to_string(i);
}

int64_t widest(const std::vector<std::string>& names, int64_t count) {
  int64_t width = 0;
  for (int64_t i = 0; i < count; ++i) width = std::max(width, text_width(name_of(names, i)));
  return width;
}

void draw_bar(Canvas& canvas, int64_t x, int64_t y, int64_t height, const Range& range) {
  for (int64_t i = 0; i < height; ++i) {
    const double share =
        static_cast<double>(i) / static_cast<double>(std::max<int64_t>(1, height - 1));
    canvas.rectangle(x, y + height - 1 - i, kBar, 1, map_color(share, range.map));
  }
  const int64_t ticks = std::clamp<int64_t>(height / 40, 1, 5);
  for (int64_t i = 0; i <= ticks; ++i) {
    const double share = static_cast<double>(i) / static_cast<double>(ticks);
    const int64_t at = y + height - 1 - std::llround(share * static_cast<double>(height - 1));
    canvas.text(x + kBar + 4, std::clamp(at - 3, y, std::max(y, y + height - 7)),
                fmt::format("{:.3g}", range.low + share * (range.high - range.low)),
                {.color = colors::kSoft});
  }
}

std::vector<double> matrix_of(const Tensor& values, std::string_view what) {
  check(values.defined() && values.rank() == 2 && values.numel() > 0,
        "{}: wants a matrix (rows, columns), got {}", what,
        values.defined() ? values.shape() : Shape{});
  return kernels::to_device(values, {}).to_vector<double>();
}

}  // namespace

Canvas draw(const HeatMap& m) {
  const std::vector<double> values = matrix_of(m.values, "heat_map");
  const int64_t rows = m.values.size(0), columns = m.values.size(1);
  const Range range = range_of(values, m.low, m.high, m.colors);
  const int64_t fit = std::clamp<int64_t>(kSide / std::max(rows, columns), 1, 48);
  const int64_t cell = m.cell > 0 ? m.cell : (m.show_values ? std::max<int64_t>(fit, 38) : fit);
  const int64_t line = text_height(), wide = columns * cell, high = rows * cell;
  const int64_t left = kGap + (m.y_label.empty() ? 0 : line + 6) + widest(m.row_names, rows) + 5;
  const int64_t top = kGap + (m.title.empty() ? 0 : line + 6);
  const int64_t title_right = left + text_width(m.title) + kGap;
  const int64_t right = left + wide + (m.bar ? kGap + kBar + 4 + 9 * 6 : 0) + kGap;
  const int64_t bottom = top + high + 5 + line + (m.x_label.empty() ? 0 : line + 4) + kGap;
  Canvas canvas(std::max({right, title_right, text_width(m.x_label) + left}), bottom);
  canvas.text(left, kGap, m.title);
  const int64_t gap = cell >= 12 ? 1 : 0;
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) {
      const double value = values[static_cast<size_t>(i * columns + j)];
      const Color color = range.color(value);
      canvas.rectangle(left + j * cell, top + i * cell, cell - gap, cell - gap, color);
      if (!m.show_values) continue;
      canvas.text(left + j * cell + cell / 2, top + i * cell + cell / 2 - 4,
                  fmt::format("{:.2g}", value), {.color = text_on(color), .align = 0.5});
    }
  }
  const TextStyle tick{.color = colors::kSoft, .align = 0.5};
  const int64_t row_stride = tick_stride(rows, cell, line + 2);
  for (int64_t i = 0; i < rows; i += row_stride) {
    canvas.text(left - 4, top + i * cell + cell / 2 - 4, name_of(m.row_names, i),
                {.color = colors::kSoft, .align = 1});
  }
  const int64_t column_stride = tick_stride(columns, cell, widest(m.column_names, columns) + 6);
  for (int64_t j = 0; j < columns; j += column_stride) {
    canvas.text(left + j * cell + cell / 2, top + high + 4, name_of(m.column_names, j), tick);
  }
  canvas.text(left + wide / 2, top + high + 5 + line + 3, m.x_label, {.align = 0.5});
  canvas.text(kGap, top + high / 2, m.y_label, {.align = 0.5, .upward = true});
  if (m.bar) draw_bar(canvas, left + wide + kGap, top, high, range);
  return canvas;
}

Canvas draw(const Overlay& o) {
  check(o.image.defined() && o.image.rank() == 3 && o.side > 0,
        "overlay: wants an image (1|3, H, W), got {}",
        o.image.defined() ? o.image.shape() : Shape{});
  const int64_t h = o.image.size(1), w = o.image.size(2), longer = std::max(h, w);
  const int64_t wide = std::max<int64_t>(1, w * o.side / longer);
  const int64_t high = std::max<int64_t>(1, h * o.side / longer);
  const int64_t top = o.title.empty() ? 0 : text_height() + 4;
  Canvas canvas(std::max(wide, text_width(o.title)), top + high);
  canvas.text(0, 0, o.title);
  canvas.image(0, top, wide, high, o.image);
  if (!o.heat.defined()) return canvas;
  const std::vector<double> heat = matrix_of(o.heat, "overlay");
  const Range range = range_of(heat, o.low, o.high, ColorMap::sequential);
  const int64_t rows = o.heat.size(0), columns = o.heat.size(1);
  for (int64_t y = 0; y < high; ++y) {
    for (int64_t x = 0; x < wide; ++x) {
      const int64_t at = y * rows / high * columns + x * columns / wide;
      canvas.blend(x, top + y, range.color(heat[static_cast<size_t>(at)]), o.opacity);
    }
  }
  return canvas;
}

Canvas draw_grid(const std::vector<Captioned>& panels, int64_t columns, const std::string& title) {
  check(columns >= 1, "draw_grid: {} panels in a row; there must be one at least", columns);
  int64_t wide = 1, high = 1;
  for (const Captioned& p : panels) {
    const int64_t caption = p.caption.empty() ? 0 : text_height() + 4;
    wide = std::max({wide, p.canvas.width(), text_width(p.caption)});
    high = std::max(high, p.canvas.height() + caption);
  }
  const auto count = static_cast<int64_t>(panels.size());
  const int64_t across = std::max<int64_t>(1, std::min(columns, count));
  const int64_t down = (count + across - 1) / across;
  const int64_t top = title.empty() ? kGap : kGap + text_height(2) + 6;
  Canvas canvas(std::max(kGap + across * (wide + kGap), text_width(title, 2) + 2 * kGap),
                top + std::max<int64_t>(1, down * (high + kGap)));
  canvas.text(kGap, kGap, title, {.scale = 2});
  for (int64_t i = 0; i < count; ++i) {
    const Captioned& p = panels[static_cast<size_t>(i)];
    const int64_t x = kGap + i % across * (wide + kGap), y = top + i / across * (high + kGap);
    canvas.paste(x, y, p.canvas);
    canvas.text(x + p.canvas.width() / 2, y + p.canvas.height() + 4, p.caption,
                {.color = colors::kSoft, .align = 0.5});
  }
  return canvas;
}

}  // namespace tessera
