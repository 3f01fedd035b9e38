#include "tessera/analysis/curves.h"

#include <algorithm>
#include <map>
#include <set>

#include "tessera/analysis/picture.h"

namespace tessera {
namespace {

// loss, accuracy, lr and speed first, the others by name.
int rank(const std::string& chart) {
  constexpr const char* kFirst[] = {"loss", "accuracy", "lr"};
  for (int i = 0; i < 3; ++i) {
    if (chart == kFirst[i]) return i;
  }
  return chart.ends_with("_per_second") ? 3 : 4;
}

int split_rank(const std::string& metric) {
  if (metric.starts_with("train_")) return 0;
  return metric.starts_with("val_") ? 1 : 2;
}

}  // namespace

std::vector<std::pair<std::string, std::vector<std::string>>> metric_charts(
    const std::vector<Json>& rows) {
  std::set<std::string> names;
  for (const Json& row : rows) {
    for (const auto& [name, value] : row.items()) {
      if (name != "step" && name.find('.') == std::string::npos && value.is_number()) {
        names.insert(name);
      }
    }
  }
  std::map<std::pair<int, std::string>, std::vector<std::string>> charts;
  for (const std::string& name : names) {
    std::string chart = name;
    for (const std::string prefix : {"train_", "val_", "test_"}) {
      if (name.starts_with(prefix)) chart = name.substr(prefix.size());
    }
    charts[{rank(chart), chart}].push_back(name);
  }
  std::vector<std::pair<std::string, std::vector<std::string>>> ordered;
  for (auto& [key, list] : charts) {
    std::stable_sort(list.begin(), list.end(), [](const std::string& a, const std::string& b) {
      return split_rank(a) < split_rank(b);
    });
    ordered.emplace_back(key.second, std::move(list));
  }
  return ordered;
}

Series smoothed(const Series& raw, double keep) {
  Series out = raw;
  double mean = 0, weight = 0;
  for (size_t i = 0; i < raw.y.size(); ++i) {
    mean = keep * mean + (1 - keep) * raw.y[i];
    weight = keep * weight + (1 - keep);
    out.y[i] = mean / weight;
  }
  return out;
}

namespace {

class Curves final : public Picture {
 public:
  struct Config {
    double smoothing = 0.9;
    bool log_loss = false;
    TESSERA_FIELDS(f)
    {
      f("smoothing", smoothing, "share kept of the running mean of training losses")
          .min(0)
          .below(1);
      f("log_loss", log_loss, "losses on a logarithmic axis");
    }
  };
  explicit Curves(const Config& config) : c_(config) {}

  bool offered(PictureInput& input) const override { return !input.metrics().empty(); }

  std::vector<NamedCanvas> draw(PictureInput& input) const override {
    std::vector<Captioned> panels;
    for (const auto& [chart, names] : metric_charts(input.metrics())) {
      panels.push_back({panel(input, chart, names)});
    }
    return {{"curves", draw_grid(panels, 2)}};
  }

 private:
  Canvas panel(PictureInput& input, const std::string& title,
               const std::vector<std::string>& names) const {
    Chart chart{.title = title, .x_label = "step", .width = 560, .height = 320};
    chart.log_y = title == "loss" && c_.log_loss;
    int64_t index = 0;
    for (const std::string& name : names) {
      Series raw = input.metric(name);
      raw.color = category_color(index++);
      raw.points = raw.x.size() <= 40;
      if (name == "train_loss" && raw.x.size() > 20) {
        Series smooth = smoothed(raw, c_.smoothing);
        raw.color = mix(*raw.color, colors::kWhite, 0.65);
        raw.name.clear();
        raw.points = smooth.points = false;
        chart.series.push_back(std::move(raw));
        chart.series.push_back(std::move(smooth));
      } else {
        chart.series.push_back(std::move(raw));
      }
    }
    return tessera::draw(chart);
  }

  Config c_;
};

TESSERA_REGISTER(Picture, Curves, "curves", "loss, accuracy, learning rate, speed over training",
                 "");

}  // namespace
}  // namespace tessera
