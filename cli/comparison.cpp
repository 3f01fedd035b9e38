#include "tessera/cli/comparison.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "tessera/analysis/plot.h"
#include "tessera/train/progress.h"

namespace tessera::cli {
namespace {

constexpr double kMega = 1e6;

// "1,234", "12.3 k", "4.56 M"
std::string short_count(double value) {
  if (value >= 1e9) return fmt::format("{:.3g} G", value / 1e9);
  if (value >= 1e6) return fmt::format("{:.3g} M", value / 1e6);
  if (value >= 1e4) return fmt::format("{:.3g} k", value / 1e3);
  return fmt::format("{:.4g}", value);
}

// " (41 %)" of the first model's value; nothing for the first one itself.
std::string share(double value, double first, bool is_first) {
  if (is_first || first == 0) return "";
  return fmt::format(" ({:.3g} %)", 100 * value / first);
}

std::string singular(const std::string& unit) {
  return unit.ends_with('s') ? unit.substr(0, unit.size() - 1) : unit;
}

std::string quality_text(const ComparedModel& m, const ComparedModel& first, bool is_first) {
  const Mean mean = mean_of(m.quality);
  std::string text = fmt::format("{:.4f}", mean.value);
  if (m.quality.size() > 1) text += fmt::format(" ± {:.4f}", mean.spread);
  const double base = mean_of(first.quality).value;
  if (!is_first && base != 0) text += fmt::format(" ({:+.2f} %)", 100 * (mean.value / base - 1));
  return text;
}

// Letters as a terminal shows them: ± counts once.
size_t shown_width(const std::string& text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

std::vector<double> column(const Comparison& c, double (*value)(const ComparedModel&)) {
  std::vector<double> out;
  for (const ComparedModel& m : c.models) out.push_back(value(m));
  return out;
}

double speed_of(const ComparedModel& m) {
  return mean_of(m.units_per_second).value;
}

Canvas trade_off(const Comparison& c, const std::string& title, const std::string& x_label,
                 const std::vector<double>& x, bool smaller_is_cheaper) {
  const auto quality = column(c, [](const ComparedModel& m) { return mean_of(m.quality).value; });
  Scatter scatter{.title = title, .x_label = x_label, .y_label = c.metric, .width = 640};
  std::vector<double> cost = x, loss = quality;
  for (double& v : cost) v = smaller_is_cheaper ? v : -v;
  for (double& v : loss) v = c.smaller_is_better ? v : -v;
  for (size_t i = 0; i < x.size(); ++i) {
    const ComparedModel& m = c.models[i];
    scatter.marks.push_back(
        {x[i], quality[i], m.name, static_cast<int64_t>(i), mean_of(m.quality).spread});
  }
  for (const size_t i : pareto(cost, loss)) scatter.frontier.push_back({x[i], quality[i]});
  const auto [least, most] = std::minmax_element(x.begin(), x.end());
  scatter.log_x = *least > 0 && *most > 5 * *least;
  return draw(scatter);
}

}  // namespace

Mean mean_of(const std::vector<double>& values) {
  if (values.empty()) return {};
  const auto count = static_cast<double>(values.size());
  const double mean = std::accumulate(values.begin(), values.end(), 0.0) / count;
  double squares = 0;
  for (const double v : values) squares += (v - mean) * (v - mean);
  return {mean, count > 1 ? std::sqrt(squares / (count - 1)) : 0};
}

std::vector<size_t> pareto(const std::vector<double>& cost, const std::vector<double>& loss) {
  std::vector<size_t> order(cost.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return cost[a] != cost[b] ? cost[a] < cost[b] : loss[a] < loss[b];
  });
  std::vector<size_t> best;
  for (const size_t i : order) {
    if (std::isfinite(loss[i]) && (best.empty() || loss[i] < loss[best.back()])) best.push_back(i);
  }
  return best;
}

std::string table_text(const Comparison& c) {
  const std::string one = singular(c.unit);
  std::vector<std::vector<std::string>> rows = {{"model", "parameters", c.metric,
                                                 "score entries/" + one, "multiply-adds/" + one,
                                                 c.unit + "/s", "peak memory", "steps"}};
  const ComparedModel& first = c.models.front();
  for (const ComparedModel& m : c.models) {
    const bool is_first = &m == &first;
    const double memory = *std::max_element(m.peak_memory.begin(), m.peak_memory.end());
    const double base = *std::max_element(first.peak_memory.begin(), first.peak_memory.end());
    rows.push_back(
        {m.name, short_count(static_cast<double>(m.parameters)), quality_text(m, first, is_first),
         short_count(m.score_entries) + share(m.score_entries, first.score_entries, is_first),
         short_count(m.multiply_adds) + share(m.multiply_adds, first.multiply_adds, is_first),
         count_text(std::round(speed_of(m))) + share(speed_of(m), speed_of(first), is_first),
         fmt::format("{:.0f} MB", memory / kMega) + share(memory, base, is_first),
         std::to_string(m.steps)});
  }
  std::vector<size_t> widths(rows.front().size());
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], shown_width(row[i]));
  }
  std::string text;
  for (const auto& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      line += row[i] + std::string(widths[i] - shown_width(row[i]) + 2, ' ');
    }
    text += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  }
  return text;
}

Json table_json(const Comparison& c) {
  Json json = {{"metric", c.metric},
               {"smaller_is_better", c.smaller_is_better},
               {"unit", c.unit},
               {"budget", c.budget},
               {"models", Json::array()}};
  for (const ComparedModel& m : c.models) {
    const Mean quality = mean_of(m.quality), speed = mean_of(m.units_per_second);
    json["models"].push_back(
        {{"name", m.name},
         {"parameters", m.parameters},
         {"steps", m.steps},
         {c.unit + "_seen", m.units},
         {c.metric, {{"mean", quality.value}, {"spread", quality.spread}, {"values", m.quality}}},
         {"score_entries_per_unit", m.score_entries},
         {"multiply_adds_per_unit", m.multiply_adds},
         {"units_per_second",
          {{"mean", speed.value}, {"spread", speed.spread}, {"values", m.units_per_second}}},
         {"peak_memory", m.peak_memory}});
  }
  return json;
}

Canvas draw_trade_off(const Comparison& c) {
  const std::string one = singular(c.unit);
  const auto entries = column(c, [](const ComparedModel& m) { return m.score_entries; });
  return draw_grid(
      {{trade_off(c, "Quality and score entries", "score entries per " + one, entries, true)},
       {trade_off(c, "Quality and speed", c.unit + " per second", column(c, speed_of), false)}},
      2);
}

}  // namespace tessera::cli
