#include "tessera/analysis/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "tessera/analysis/axes.h"
#include "tessera/analysis/curves.h"
#include "tessera/core/file.h"

namespace tessera {
namespace {
namespace fs = std::filesystem;

constexpr const char* kHead = R"(<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root { color-scheme: light dark; --paper: #fff; --ink: #22262e; --soft: #6d737d; --line: #e2e5e9;
  --card: #f6f7f9; --c0: #0072b2; --c1: #d68f00; --c2: #009e73; --c3: #d55e00; --c4: #b7609a; }
@media (prefers-color-scheme: dark) { :root { --paper: #15181d; --ink: #e4e7eb; --soft: #979ea8;
  --line: #2b3038; --card: #1d2127; --c0: #58a9e0; --c1: #f0b63c; --c2: #35c49a; --c3: #f0894a;
  --c4: #dc96c3; } }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 1120px; padding: 24px;
  background: var(--paper); color: var(--ink); }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 18px; margin: 36px 0 12px; }
p.sub, figcaption, .axis { color: var(--soft); } p.sub { margin: 0 0 16px; }
.figures { display: flex; flex-wrap: wrap; gap: 10px; }
.figures div { background: var(--card); border-radius: 8px; padding: 8px 14px; }
.figures b { display: block; font-size: 19px; font-variant-numeric: tabular-nums; }
.figures span { color: var(--soft); font-size: 13px; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(340px, 1fr)); gap: 16px; }
.charts figure { margin: 0; background: var(--card); border-radius: 8px; padding: 10px 12px; }
svg { width: 100%; height: auto; display: block; } svg text { font-size: 11px; fill: var(--soft); }
svg text.title { font-size: 14px; fill: var(--ink); font-weight: 600; }
svg .grid { stroke: var(--line); } svg .base { stroke: var(--soft); }
svg polyline { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
svg .raw { opacity: .3; stroke-width: 1; } svg .at { stroke: var(--soft); stroke-dasharray: 3 3; }
.s0 { stroke: var(--c0); } .s1 { stroke: var(--c1); } .s2 { stroke: var(--c2); }
.s3 { stroke: var(--c3); } .s4 { stroke: var(--c4); }
.f0 { fill: var(--c0); } .f1 { fill: var(--c1); } .f2 { fill: var(--c2); } .f3 { fill: var(--c3); }
.f4 { fill: var(--c4); }
pre { background: var(--card); border-radius: 8px; padding: 12px; overflow-x: auto; margin: 8px 0;
  font: 13px/1.45 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
summary { cursor: pointer; } .picture { margin: 0 0 20px; }
.picture img { max-width: 100%; background: #fff; border-radius: 8px; border: 1px solid var(--line); }
table { border-collapse: collapse; } td { padding: 3px 18px 3px 0; vertical-align: top; }
td:first-child { color: var(--soft); }
</style>)";

// The chart under the pointer shows the step and the values nearest to it.
constexpr const char* kScript = R"(<script>
for (const svg of document.querySelectorAll("svg[data-left]")) {
  const line = svg.querySelector(".at"), out = svg.querySelector(".read");
  const series = JSON.parse(svg.dataset.series), d = svg.dataset;
  svg.addEventListener("pointermove", (e) => {
    const box = svg.getBoundingClientRect(), left = +d.left, right = +d.right;
    const px = Math.min(right, Math.max(left, (e.clientX - box.left) * 480 / box.width));
    const x = +d.low + (px - left) / (right - left) * (d.high - d.low);
    let step = null;
    const parts = series.map(([name, xs, ys]) => {
      let best = 0;
      xs.forEach((v, i) => { if (Math.abs(v - x) < Math.abs(xs[best] - x)) best = i; });
      if (step === null || Math.abs(xs[best] - x) < Math.abs(step - x)) step = xs[best];
      return name + " " + (+ys[best].toPrecision(4));
    });
    line.setAttribute("x1", px); line.setAttribute("x2", px);
    out.textContent = "step " + step + "  " + parts.join("  ");
  });
  svg.addEventListener("pointerleave", () => {
    out.textContent = ""; line.setAttribute("x1", -9); line.setAttribute("x2", -9);
  });
}
</script>)";

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '&':
        out += "&amp;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string base64(std::string_view bytes) {
  constexpr const char* kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t word = 0;
    for (size_t k = 0; k < 3; ++k) {
      word = word << 8 | (i + k < bytes.size() ? static_cast<unsigned char>(bytes[i + k]) : 0U);
    }
    for (size_t k = 0; k < 4; ++k) {
      const bool there = i + k <= bytes.size();
      out += there ? kDigits[word >> (18 - 6 * k) & 63] : '=';
    }
  }
  return out;
}

// At most about 600 points, each the mean of its neighbours.
Series thinned(const Series& s) {
  const size_t run = s.x.size() / 600 + 1;
  if (run == 1) return s;
  Series out{.name = s.name, .x = {}, .y = {}};
  for (size_t i = 0; i + run <= s.x.size(); i += run) {
    double x = 0, y = 0;
    for (size_t k = i; k < i + run; ++k) {
      x += s.x[k] / static_cast<double>(run);
      y += s.y[k] / static_cast<double>(run);
    }
    out.x.push_back(x);
    out.y.push_back(y);
  }
  return out;
}

std::string points_text(const Series& s, const Scale& x, const Scale& y) {
  std::string points;
  for (size_t i = 0; i < s.x.size(); ++i) {
    if (std::isfinite(s.y[i])) points += fmt::format("{:.1f},{:.1f} ", x(s.x[i]), y(s.y[i]));
  }
  return points;
}

// "train_loss" raw and smoothed; others as they are.
std::string curves(const Chart& c, const Scale& x, const Scale& y) {
  std::string out;
  for (size_t i = 0; i < c.series.size(); ++i) {
    const Series s = thinned(c.series[i]);
    const size_t color = i % 5;
    const bool smooth = s.name == "train_loss" && s.x.size() > 20;
    out += fmt::format(R"(<polyline class="s{}{}" points="{}"/>)", color, smooth ? " raw" : "",
                       points_text(s, x, y));
    if (smooth) {
      out += fmt::format(R"(<polyline class="s{}" points="{}"/>)", color,
                         points_text(smoothed(s, 0.9), x, y));
    }
    for (size_t k = 0; s.x.size() <= 30 && k < s.x.size(); ++k) {
      if (!std::isfinite(s.y[k])) continue;
      out += fmt::format(R"(<circle class="f{}" cx="{:.1f}" cy="{:.1f}" r="2.4"/>)", color,
                         x(s.x[k]), y(s.y[k]));
    }
  }
  return out;
}

std::string legend(const Chart& c) {
  std::string out;
  int64_t left = 44;
  for (size_t i = 0; i < c.series.size(); ++i) {
    const std::string& name = c.series[i].name;
    out += fmt::format(R"(<rect class="f{}" x="{}" y="27" width="9" height="9" rx="2"/>)", i % 5,
                       left);
    out += fmt::format(R"(<text x="{}" y="36">{}</text>)", left + 13, escaped(name));
    left += 13 + 7 * static_cast<int64_t>(name.size()) + 14;
  }
  return out;
}

Json series_data(const Chart& c) {
  Json all = Json::array();
  for (const Series& series : c.series) {
    const Series s = thinned(series);
    if (!s.x.empty()) all.push_back({s.name, s.x, s.y});
  }
  return all;
}

std::string figures(const Json& result) {
  std::string out;
  const auto figure = [&out](const std::string& name, const std::string& value) {
    out += fmt::format("<div><b>{}</b><span>{}</span></div>", escaped(value), escaped(name));
  };
  const Json metrics = result.value("metrics", Json::object());
  for (const auto& [name, value] : metrics.items()) {
    if (name.find('.') == std::string::npos && value.is_number()) {
      figure(name, fmt::format("{:.4g}", value.get<double>()));
    }
  }
  if (result.contains("units_per_second")) {
    figure(result.value("unit", "units") + " per second",
           fmt::format("{:.0f}", result["units_per_second"].get<double>()));
    figure("peak memory", fmt::format("{:.0f} MB", result["peak_memory"].get<double>() / 1e6));
  }
  return out.empty() ? out : "<div class=\"figures\">" + out + "</div>";
}

std::string chart_section(PictureInput& input) {
  std::string out;
  for (const auto& [title, names] : metric_charts(input.metrics())) {
    Chart chart{.title = title, .x_label = "step"};
    for (const std::string& name : names) chart.series.push_back(input.metric(name));
    out += "<figure>" + svg_chart(chart) + "</figure>\n";
  }
  return out.empty() ? out : "<h2>Curves</h2>\n<div class=\"charts\">" + out + "</div>\n";
}

// samples/step-N.txt in order, the last one open.
std::string sample_section(const fs::path& run) {
  std::vector<std::pair<int64_t, fs::path>> samples;
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(run / "samples", none)) {
    const std::string stem = entry.path().stem().string();
    if (stem.starts_with("step-")) samples.emplace_back(std::atoll(stem.c_str() + 5), entry.path());
  }
  std::sort(samples.begin(), samples.end());
  std::string out;
  for (size_t i = 0; i < samples.size(); ++i) {
    out += fmt::format("<details{}><summary>step {}</summary><pre>{}</pre></details>\n",
                       i + 1 == samples.size() ? " open" : "", samples[i].first,
                       escaped(read_file(samples[i].second.string())));
  }
  return out.empty() ? out : "<h2>Samples</h2>\n" + out;
}

std::string picture_section(PictureInput& input) {
  std::string out;
  std::vector<std::string> names;
  try {
    names = offered_pictures(input);
  } catch (const std::exception& error) {
    return fmt::format("<h2>Pictures</h2><p class=\"sub\">{}</p>\n", escaped(error.what()));
  }
  for (const std::string& name : names) {
    if (name == "curves") continue;
    const std::string about = find_entry(Picture::kKind, name, "report").summary;
    try {
      for (const NamedCanvas& drawn : draw_picture(name, {}, input)) {
        out += fmt::format(
            "<figure class=\"picture\"><img alt=\"{}\" src=\"data:image/png;base64,{}\">"
            "<figcaption>{}: {}</figcaption></figure>\n",
            escaped(drawn.name), base64(drawn.canvas.to_png()), escaped(drawn.name),
            escaped(about));
      }
    } catch (const std::exception& error) {
      out += fmt::format("<p class=\"sub\">{}: {}</p>\n", escaped(name), escaped(error.what()));
    }
  }
  return out.empty() ? out : "<h2>Pictures</h2>\n" + out;
}

Json json_file(const fs::path& file) {
  if (!fs::exists(file)) return Json::object();
  Json json = Json::parse(read_file(file.string()), nullptr, false);
  return json.is_object() ? json : Json::object();
}

std::string environment_section(const Json& environment) {
  std::string out;
  for (const auto& [name, value] : environment.items()) {
    out += fmt::format("<tr><td>{}</td><td>{}</td></tr>", escaped(name),
                       escaped(value.is_string() ? value.get<std::string>() : value.dump()));
  }
  return out.empty() ? out : "<h2>Environment</h2>\n<table>" + out + "</table>\n";
}

}  // namespace

std::string svg_chart(const Chart& c) {
  constexpr double kLeft = 44, kRight = 470, kTop = 48, kBottom = 214;
  std::vector<double> xs, ys;
  for (const Series& s : c.series) {
    xs.insert(xs.end(), s.x.begin(), s.x.end());
    ys.insert(ys.end(), s.y.begin(), s.y.end());
  }
  Scale x = Scale::of(xs, false), y = Scale::of(ys, false);
  x.from = kLeft;
  x.to = kRight;
  y.from = kBottom;
  y.to = kTop;
  std::string out = fmt::format(
      R"(<svg viewBox="0 0 480 236" role="img" aria-label="{}" data-left="{}" data-right="{}" )"
      R"(data-low="{}" data-high="{}" data-series="{}"><text class="title" x="{}" y="16">{}</text>)",
      escaped(c.title), kLeft, kRight, x.low, x.high, escaped(series_data(c).dump()), kLeft,
      escaped(c.title));
  for (const double t : y.ticks(5)) {
    out += fmt::format(R"(<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>)", kLeft,
                       kRight, y(t), y(t));
    out += fmt::format(R"(<text x="{}" y="{:.1f}" text-anchor="end">{}</text>)", kLeft - 5,
                       y(t) + 4, tick_text(t));
  }
  for (const double t : x.ticks(6)) {
    out += fmt::format(R"(<text x="{:.1f}" y="{}" text-anchor="middle">{}</text>)", x(t),
                       kBottom + 16, tick_text(t));
  }
  out += fmt::format(R"(<line class="base" x1="{}" x2="{}" y1="{}" y2="{}"/>)", kLeft, kRight,
                     kBottom, kBottom);
  out += legend(c) + curves(c, x, y);
  out += fmt::format(R"(<line class="at" x1="-9" x2="-9" y1="{}" y2="{}"/>)", kTop, kBottom);
  return out + R"(<text class="read" x="470" y="16" text-anchor="end"></text></svg>)";
}

std::string run_report(PictureInput& input, bool pictures) {
  const fs::path& run = input.run().path();
  const Json result = json_file(run / "result.json");
  const std::string name = input.config().value("name", run.filename().string());
  std::string page = kHead;
  page += fmt::format("<title>{} – tessera</title></head><body>\n<h1>{}</h1>\n", escaped(name),
                      escaped(name));
  const auto type_of = [&](const char* key) {
    const Json part = input.config().value(key, Json::object());
    return part.is_string() ? part.get<std::string>() : part.value("type", std::string());
  };
  page += fmt::format("<p class=\"sub\">{} on {}, {}</p>\n", escaped(type_of("model")),
                      escaped(type_of("data")),
                      result.contains("step") ? result["step"].dump() + " steps" : "unfinished");
  page += figures(result) + chart_section(input) + sample_section(run);
  if (pictures) page += picture_section(input);
  page += environment_section(json_file(run / "environment.json"));
  page += "<h2>Config</h2>\n<details><summary>config.json</summary><pre>" +
          escaped(input.config().dump(2)) + "</pre></details>\n";
  return page + kScript + "\n</body></html>\n";
}

}  // namespace tessera
