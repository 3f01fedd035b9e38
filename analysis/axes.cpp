#include "tessera/analysis/axes.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace tessera {
namespace {

constexpr int64_t kGap = 8;

std::string trimmed(double value, const char* unit = "") {
  return fmt::format("{:.4g}{}", value, unit);
}

// The round number (1, 2 or 5 times a power of ten) next above x.
double round_step(double x) {
  const double power = std::pow(10.0, std::floor(std::log10(x)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (x <= factor * power * (1 + 1e-9)) return factor * power;
  }
  return 10 * power;
}

std::vector<double> log_ticks(double low, double high) {
  std::vector<double> out;
  const bool few = high - low < 2;  // decades
  const double stride = std::max(1.0, std::ceil((high - low) / 8));
  for (double decade = std::floor(low); decade <= high + 1e-9; decade += stride) {
    for (const double factor : {1.0, 2.0, 5.0}) {
      if (factor > 1 && !few) break;
      const double at = decade + std::log10(factor);
      if (at >= low - 1e-9 && at <= high + 1e-9) out.push_back(factor * std::pow(10.0, decade));
    }
  }
  return out;
}

}  // namespace

std::string tick_text(double value) {
  const double size = std::abs(value);
  if (size < 1e-12) return "0";
  if (size >= 1e12 || size < 1e-3) return fmt::format("{:.3g}", value);
  if (size >= 1e9) return trimmed(value / 1e9, "G");
  if (size >= 1e6) return trimmed(value / 1e6, "M");
  if (size >= 1e4) return trimmed(value / 1e3, "k");
  return trimmed(value);
}

Scale Scale::of(const std::vector<double>& values, bool log) {
  Scale s;
  s.log = log;
  bool any = false;
  for (const double v : values) {
    if (!std::isfinite(v) || (log && v <= 0)) continue;
    const double at = log ? std::log10(v) : v;
    s.low = any ? std::min(s.low, at) : at;
    s.high = any ? std::max(s.high, at) : at;
    any = true;
  }
  if (!any) return s;
  const double spread = s.high - s.low;
  const double margin = spread > 0 ? 0.04 * spread : std::max(1e-9, 0.05 * std::abs(s.high));
  s.low -= margin;
  s.high += margin;
  return s;
}

double Scale::operator()(double value) const {
  if (!std::isfinite(value) || (log && value <= 0)) return NAN;
  const double at = log ? std::log10(value) : value;
  return from + (at - low) / (high - low) * (to - from);
}

std::vector<double> Scale::ticks(int64_t count) const {
  if (log && high - low >= 0.7) return log_ticks(low, high);
  if (log) {  // so narrow that it is nearly even
    const Scale even{std::pow(10.0, low), std::pow(10.0, high)};
    return even.ticks(count);
  }
  const double step = round_step((high - low) / static_cast<double>(std::max<int64_t>(1, count)));
  std::vector<double> out;
  for (double k = std::ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; ++k) {
    out.push_back(k * step);
  }
  return out;
}

int64_t draw_legend(Canvas* canvas, int64_t x, int64_t y, int64_t width,
                    const std::vector<std::pair<std::string, Color>>& legend, int64_t scale) {
  const int64_t box = 8 * scale, line = text_height(scale) + 5 * scale;
  int64_t left = x, top = y;
  for (const auto& [name, color] : legend) {
    const int64_t wide = box + 4 * scale + text_width(name, scale) + 12 * scale;
    if (left > x && left + wide > x + width) {
      left = x;
      top += line;
    }
    if (canvas != nullptr) {
      canvas->rectangle(left, top, box, box, color);
      canvas->text(left + box + 4 * scale, top, name, {.scale = scale});
    }
    left += wide;
  }
  return legend.empty() ? 0 : top + line - y;
}

Canvas draw_frame(const Frame& f, Scale& x, Scale& y) {
  const int64_t line = text_height();
  std::vector<double> y_ticks = y.ticks(6);
  int64_t label_width = 0;
  for (const double t : y_ticks) label_width = std::max(label_width, text_width(tick_text(t)));
  const int64_t left = kGap + (f.y_label.empty() ? 0 : line + 6) + label_width + 6;
  const int64_t right = f.width - 2 * kGap;
  int64_t top = kGap + (f.title.empty() ? 0 : text_height(2) + 4);
  const int64_t legend_top = top;
  top += draw_legend(nullptr, 0, 0, right - left, f.legend) + 4;
  const int64_t bottom = f.height - kGap - (f.x_label.empty() ? 0 : line + 6) - line - 4;
  Canvas canvas(f.width, f.height);
  x.from = static_cast<double>(left);
  x.to = static_cast<double>(right);
  y.from = static_cast<double>(bottom);
  y.to = static_cast<double>(top);
  canvas.text(left, kGap, f.title, {.scale = 2});
  draw_legend(&canvas, left, legend_top, right - left, f.legend);
  for (const double t : y_ticks) {
    const int64_t at = std::llround(y(t));
    canvas.rectangle(left, at, right - left, 1, colors::kGrid);
    canvas.text(left - 5, at - 3, tick_text(t), {.color = colors::kSoft, .align = 1});
  }
  const auto x_tick = [&](double t, const std::string& text) {
    const int64_t at = std::llround(x(t));
    canvas.rectangle(at, top, 1, bottom - top, colors::kGrid);
    canvas.text(at, bottom + 5, text, {.color = colors::kSoft, .align = 0.5});
  };
  if (f.x_names.empty()) {
    for (const double t : x.ticks(8)) x_tick(t, tick_text(t));
  } else {
    for (size_t i = 0; i < f.x_names.size(); ++i) x_tick(static_cast<double>(i), f.x_names[i]);
  }
  canvas.rectangle(left, bottom, right - left + 1, 1, colors::kSoft);
  canvas.rectangle(left, top, 1, bottom - top, colors::kSoft);
  canvas.text((left + right) / 2, f.height - kGap - line, f.x_label, {.align = 0.5});
  canvas.text(kGap, (top + bottom) / 2, f.y_label, {.align = 0.5, .upward = true});
  return canvas;
}

}  // namespace tessera
