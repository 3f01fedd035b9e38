// How a CRATE compresses and sparsifies over its depth, and how its subspaces lie.
#include "tessera/analysis/coding_rate.h"
#include "tessera/analysis/layer_measures.h"
#include "tessera/analysis/picture.h"
#include "tessera/attention/mssa.h"
#include "tessera/nn/ista.h"

namespace tessera {
namespace {

constexpr int64_t kTokens = 256;

bool has_white_box_layers(PictureInput& input) {
  return !modules_of<MssaAttention>(input.model()).empty() &&
         !modules_of<Ista>(input.model()).empty();
}

Series curve(const std::string& name, const std::vector<LayerMeasures>& layers,
             double LayerMeasures::*member) {
  Series s{.name = name, .x = {}, .y = {}, .points = true};
  for (size_t i = 0; i < layers.size(); ++i) {
    s.x.push_back(static_cast<double>(i));
    s.y.push_back(layers[i].*member);
  }
  return s;
}

class CodingRate final : public Picture {
 public:
  struct Config {
    int64_t images = 32;
    TESSERA_FIELDS(f)
    { f("images", images, "how many are averaged over").min(1).max(4096); }
  };
  explicit CodingRate(const Config& config) : c_(config) {}

  bool offered(PictureInput& input) const override { return has_white_box_layers(input); }

  std::vector<NamedCanvas> draw(PictureInput& input) const override {
    const bool reads = dynamic_cast<LanguageModel*>(&input.model()) != nullptr;
    const Tensor data = reads ? input.tokens(kTokens) : input.images(c_.images);
    const auto before = untrained(input.config(), input.card().data.info);
    const auto trained = measure_layers(input.model(), data), fresh = measure_layers(*before, data);
    std::vector<std::string> names;
    for (size_t i = 0; i < trained.size(); ++i) names.push_back(std::to_string(i + 1));
    const auto chart = [&](const char* title, const char* label, double LayerMeasures::*member) {
      return tessera::draw(
          Chart{.title = title,
                .x_label = "layer",
                .y_label = label,
                .series = {curve("trained", trained, member), curve("untrained", fresh, member)},
                .low = 0,
                .x_names = names});
    };
    return {{"coding_rate", chart("Coding rate over depth", "R^c", &LayerMeasures::rate)},
            {"coding_rate_after",
             chart("Coding rate after the compressing step", "R^c", &LayerMeasures::rate_after)},
            {"nonzeros", chart("Non-zero codes over depth", "share", &LayerMeasures::nonzeros)}};
  }

 private:
  Config c_;
};

class Coherence final : public Picture {
 public:
  struct Config {
    TESSERA_FIELDS(f)
    { (void)f; }
  };
  explicit Coherence(const Config&) {}

  bool offered(PictureInput& input) const override { return has_white_box_layers(input); }

  std::vector<NamedCanvas> draw(PictureInput& input) const override {
    std::vector<Captioned> panels;
    const auto add = [&](const Tensor& matrix, const std::string& caption) {
      panels.push_back(
          {tessera::draw(HeatMap{.values = matrix, .low = 0, .high = 1, .bar = false}), caption});
    };
    const auto subspaces = modules_of<MssaAttention>(input.model());
    for (size_t i = 0; i < subspaces.size(); ++i) {
      add(coherence(subspaces[i].second->in.weight, true), fmt::format("U of layer {}", i + 1));
    }
    const auto steps = modules_of<Ista>(input.model());
    for (size_t i = 0; i < steps.size(); ++i) {
      add(coherence(steps[i].second->dictionary), fmt::format("D of layer {}", i + 1));
    }
    return {{"coherence", draw_grid(panels, static_cast<int64_t>(subspaces.size()),
                                    "|cos| of every two directions")}};
  }
};

TESSERA_REGISTER(Picture, CodingRate, "coding_rate",
                 "coding rate and sparsity of every layer, trained and untrained",
                 "Yu et al. 2023, CRATE");
TESSERA_REGISTER(Picture, Coherence, "coherence", "how subspaces and dictionaries overlap",
                 "Yu et al. 2023, CRATE");

}  // namespace
}  // namespace tessera
