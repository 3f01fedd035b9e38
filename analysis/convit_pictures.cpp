// How positional a ConViT's heads are, and how far they look.
#include <cmath>

#include "tessera/analysis/picture.h"
#include "tessera/attention/gpsa.h"
#include "tessera/attention/self_attention.h"
#include "tessera/autograd/ops/elementwise.h"
#include "tessera/core/create.h"

namespace tessera {
namespace {

bool has_gates(PictureInput& input) {
  return !modules_of<GpsaAttention>(input.model()).empty();
}

class Gates final : public Picture {
 public:
  struct Config {
    TESSERA_FIELDS(f)
    { (void)f; }
  };
  explicit Gates(const Config&) {}

  bool offered(PictureInput& input) const override { return has_gates(input); }

  std::vector<NamedCanvas> draw(PictureInput& input) const override {
    const auto layers = modules_of<GpsaAttention>(input.model());
    std::vector<double> values;
    std::vector<std::string> rows, columns;
    for (size_t l = 0; l < layers.size(); ++l) {
      rows.push_back(fmt::format("layer {}", l));
      for (double g : sigmoid(layers[l].second->gate.detach()).to_vector<double>()) {
        if (l == 0) columns.push_back(fmt::format("head {}", columns.size()));
        values.push_back(g);
      }
    }
    const Tensor gates = from_values(
        values, {static_cast<int64_t>(rows.size()), static_cast<int64_t>(columns.size())});
    std::vector<NamedCanvas> all = {
        {"gates", tessera::draw(HeatMap{.values = gates,
                                        .title = "Share of position in each head",
                                        .row_names = rows,
                                        .column_names = columns,
                                        .low = 0,
                                        .high = 1,
                                        .show_values = true,
                                        .cell = 64})}};
    Chart chart{.title = "Share of position over training",
                .x_label = "step",
                .y_label = "gate",
                .low = 0,
                .high = 1};
    for (size_t l = 0; l < layers.size(); ++l) {
      Series mean = mean_gate(input, l, columns.size());
      if (!mean.x.empty()) chart.series.push_back(std::move(mean));
    }
    if (!chart.series.empty()) all.push_back({"gates_over_training", tessera::draw(chart)});
    return all;
  }

 private:
  static Series mean_gate(PictureInput& input, size_t layer, size_t heads) {
    Series mean{.name = fmt::format("layer {}", layer), .x = {}, .y = {}, .points = true};
    for (size_t h = 0; h < heads; ++h) {
      const Series one = input.metric(heads == 1 ? fmt::format("val_gate.{}", layer)
                                                 : fmt::format("val_gate.{}.{}", layer, h));
      if (mean.x.empty()) {
        mean.x = one.x;
        mean.y.assign(one.x.size(), 0);
      }
      for (size_t i = 0; i < std::min(mean.y.size(), one.y.size()); ++i) {
        mean.y[i] += one.y[i] / static_cast<double>(heads);
      }
    }
    return mean;
  }
};

// Σ_j A_ij ‖δ_ij‖, mean over queries and images, of weights (B, H, N, N) whose last `patches`
// tokens are a grid: one number a head.
std::vector<double> mean_distances(const Tensor& weights, int64_t columns, int64_t patches) {
  const auto a = weights.to_vector<float>();
  const int64_t heads = weights.size(1), n = weights.size(2), prefix = n - patches;
  std::vector<double> out(static_cast<size_t>(heads), 0.0);
  const double share = 1 / static_cast<double>(weights.size(0) * patches);
  for (int64_t e = 0; e < weights.numel(); ++e) {
    const int64_t i = e / n % n - prefix, j = e % n - prefix;
    if (i < 0 || j < 0) continue;
    const double distance = std::hypot(static_cast<double>(i / columns - j / columns),
                                       static_cast<double>(i % columns - j % columns));
    out[static_cast<size_t>(e / (n * n) % heads)] +=
        share * distance * static_cast<double>(a[static_cast<size_t>(e)]);
  }
  return out;
}

class AttentionDistance final : public Picture {
 public:
  struct Config {
    int64_t images = 8;
    TESSERA_FIELDS(f)
    { f("images", images, "how many are averaged over").min(1).max(256); }
  };
  explicit AttentionDistance(const Config& config) : c_(config) {}

  bool offered(PictureInput& input) const override {
    return dynamic_cast<ImageClassifier*>(&input.model()) != nullptr && has_gates(input);
  }

  std::vector<NamedCanvas> draw(PictureInput& input) const override {
    const WeightsScope wanted;
    const auto seen = observe(input.model(), input.images(c_.images), {".weights"});
    const int64_t patches = seen.front().second.size(2);
    const auto& info = input.card().data.info;
    const auto columns = std::llround(
        std::sqrt(static_cast<double>(patches * info.width) / static_cast<double>(info.height)));
    Chart chart{.title = "Mean attention distance of each head",
                .x_label = "layer",
                .y_label = "patches",
                .low = 0};
    for (size_t l = 0; l < seen.size(); ++l) {
      chart.x_names.push_back(std::to_string(l));
      const auto distances = mean_distances(seen[l].second, columns, patches);
      chart.series.resize(std::max(chart.series.size(), distances.size()));
      for (size_t h = 0; h < distances.size(); ++h) {
        Series& s = chart.series[h];
        s.name = fmt::format("head {}", h);
        s.points = true;
        s.x.push_back(static_cast<double>(l));
        s.y.push_back(distances[h]);
      }
    }
    return {{"attention_distance", tessera::draw(chart)}};
  }

 private:
  Config c_;
};

TESSERA_REGISTER(Picture, Gates, "gates", "how positional each head of each layer is",
                 "d'Ascoli et al. 2021, ConViT");
TESSERA_REGISTER(Picture, AttentionDistance, "attention_distance",
                 "how far the heads of each layer look", "d'Ascoli et al. 2021, ConViT");

}  // namespace
}  // namespace tessera
