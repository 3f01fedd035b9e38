// Which cluster the tokens of a text belong to, in a head that routes.
#include <algorithm>
#include <map>

#include "tessera/analysis/picture.h"
#include "tessera/attention/routing.h"

namespace tessera {
namespace {

class RoutingClusters final : public Picture {
 public:
  struct Config {
    int64_t layer = -1;
    int64_t head = 0;
    int64_t tokens = 768;
    TESSERA_FIELDS(f)
    {
      f("layer", layer, "which of the layers that route; negative ones count from the end")
          .min(-(1 << 14))
          .max(1 << 14);
      f("head", head, "which of its routing heads").min(0).max(1 << 16);
      f("tokens", tokens, "length of the text").min(1).max(1 << 14);
    }
  };
  explicit RoutingClusters(const Config& config) : c_(config) {}

  bool offered(PictureInput& input) const override {
    const auto layers = modules_of<RoutingAttention>(input.model());
    return std::any_of(layers.begin(), layers.end(),
                       [](const auto& layer) { return layer.second->centroids.has_value(); });
  }

  std::vector<NamedCanvas> draw(PictureInput& input) const override {
    const Tensor tokens = input.tokens(c_.tokens);
    const auto seen = observe(input.model(), tokens, {".nearest"});
    const auto layers = static_cast<int64_t>(seen.size());
    const int64_t layer = c_.layer < 0 ? c_.layer + layers : c_.layer;
    check(layer >= 0 && layer < layers, "routing_clusters: {} layers route, there is no layer {}",
          layers, c_.layer);
    const auto& [path, nearest] = seen[static_cast<size_t>(layer)];
    check(c_.head < nearest.size(1), "routing_clusters: {} heads route, there is no head {}",
          nearest.size(1), c_.head);
    const auto all = nearest.to_vector<int64_t>();
    const std::vector<std::string> texts = input.token_texts(tokens);
    TextStrip strip{.title = fmt::format("Nearest centroids: {}, head {}",
                                         path.substr(0, path.rfind('.')), c_.head)};
    std::map<int64_t, int64_t> members;
    for (size_t t = 0; t < texts.size(); ++t) {
      const int64_t cluster = all[static_cast<size_t>(c_.head * nearest.size(2)) + t];
      ++members[cluster];
      strip.pieces.push_back({texts[t], mix(category_color(cluster), colors::kWhite, 0.5)});
    }
    for (const auto& [cluster, count] : members) {
      strip.legend.emplace_back(fmt::format("{}: {} tokens", cluster, count),
                                mix(category_color(cluster), colors::kWhite, 0.5));
    }
    return {{"routing_clusters", tessera::draw(strip)}};
  }

 private:
  Config c_;
};

TESSERA_REGISTER(Picture, RoutingClusters, "routing_clusters",
                 "the cluster that each token of a text belongs to", "Roy et al. 2021");

}  // namespace
}  // namespace tessera
