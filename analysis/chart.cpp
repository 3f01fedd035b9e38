#include <algorithm>
#include <cmath>

#include "tessera/analysis/axes.h"
#include "tessera/analysis/plot.h"

namespace tessera {
namespace {

Color color_of(const Series& s, size_t index) {
  return s.color.value_or(category_color(static_cast<int64_t>(index)));
}

// The points in order; where a value is missing the line stops or goes on past it.
std::vector<Point> pixels_of(const Series& s, const Scale& x, const Scale& y) {
  std::vector<Point> out;
  for (size_t i = 0; i < std::min(s.x.size(), s.y.size()); ++i) {
    const Point p{x(s.x[i]), y(s.y[i])};
    if (std::isfinite(p.x) && std::isfinite(p.y)) out.push_back(p);
  }
  return out;
}

void set_range(Scale& scale, std::optional<double> low, std::optional<double> high) {
  if (low) scale.low = scale.log ? std::log10(*low) : *low;
  if (high) scale.high = scale.log ? std::log10(*high) : *high;
  if (!(scale.high > scale.low)) scale.high = scale.low + 1;
}

}  // namespace

Canvas draw(const Chart& c) {
  std::vector<double> xs, ys;
  std::vector<std::pair<std::string, Color>> legend;
  for (size_t i = 0; i < c.series.size(); ++i) {
    const Series& s = c.series[i];
    check(s.x.size() == s.y.size(), "chart: series \"{}\" has {} x and {} y", s.name, s.x.size(),
          s.y.size());
    xs.insert(xs.end(), s.x.begin(), s.x.end());
    ys.insert(ys.end(), s.y.begin(), s.y.end());
    if (!s.name.empty()) legend.emplace_back(s.name, color_of(s, i));
  }
  Scale x = Scale::of(xs, c.log_x), y = Scale::of(ys, c.log_y);
  set_range(y, c.low, c.high);
  Canvas canvas = draw_frame({.title = c.title,
                              .x_label = c.x_label,
                              .y_label = c.y_label,
                              .legend = std::move(legend),
                              .x_names = c.x_names,
                              .width = c.width,
                              .height = c.height},
                             x, y);
  for (size_t i = 0; i < c.series.size(); ++i) {
    const Series& s = c.series[i];
    const std::vector<Point> points = pixels_of(s, x, y);
    if (s.line) canvas.polyline(points, color_of(s, i), 1.8);
    const bool dots = s.points || !s.line || points.size() == 1;
    for (const Point& p : points) {
      if (dots) canvas.disc(p, 2.6, color_of(s, i));
    }
  }
  return canvas;
}

Canvas draw(const Scatter& c) {
  std::vector<double> xs, ys;
  for (const Mark& m : c.marks) {
    xs.push_back(m.x);
    ys.insert(ys.end(), {m.y - m.spread, m.y + m.spread});
  }
  std::vector<std::pair<std::string, Color>> legend;
  for (size_t i = 0; i < c.groups.size(); ++i) {
    legend.emplace_back(c.groups[i], category_color(static_cast<int64_t>(i)));
  }
  Scale x = Scale::of(xs, c.log_x), y = Scale::of(ys, c.log_y);
  Canvas canvas = draw_frame({.title = c.title,
                              .x_label = c.x_label,
                              .y_label = c.y_label,
                              .legend = std::move(legend),
                              .x_names = {},
                              .width = c.width,
                              .height = c.height},
                             x, y);
  std::vector<Point> frontier;
  for (const Point& p : c.frontier) frontier.push_back({x(p.x), y(p.y)});
  canvas.polyline(frontier, colors::kMissing, 2);
  for (const Mark& m : c.marks) {
    const Point p{x(m.x), y(m.y)};
    if (!std::isfinite(p.x) || !std::isfinite(p.y)) continue;
    if (m.spread > 0) {
      canvas.line({p.x, y(m.y - m.spread)}, {p.x, y(m.y + m.spread)},
                  mix(category_color(m.group), colors::kWhite, 0.4), 2);
    }
    canvas.disc(p, 4.2, category_color(m.group));
    const int64_t wide = text_width(m.label), at = std::llround(p.x);
    const bool fits = at + 8 + wide < c.width;
    canvas.text(fits ? at + 8 : at - 8, std::llround(p.y) - 3, m.label,
                {.align = fits ? 0.0 : 1.0});
  }
  return canvas;
}

}  // namespace tessera
