// How the tokens of each layer were shared among its experts, over training.
#include <algorithm>
#include <charconv>

#include "tessera/analysis/picture.h"
#include "tessera/core/create.h"

namespace tessera {
namespace {

constexpr std::string_view kPrefix = "val_expert_load.";

struct Place {
  int64_t layer = 0, expert = 0;
};

// The layer and expert of "val_expert_load.L.E".
std::optional<Place> place_of(std::string_view name) {
  if (!name.starts_with(kPrefix)) return std::nullopt;
  name.remove_prefix(kPrefix.size());
  const size_t dot = name.find('.');
  if (dot == std::string_view::npos) return std::nullopt;
  Place place;
  const auto read = [](std::string_view text, int64_t& value) {
    const char* end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, value);
    return error == std::errc() && stop == end;
  };
  if (!read(name.substr(0, dot), place.layer) || !read(name.substr(dot + 1), place.expert)) {
    return std::nullopt;
  }
  return place;
}

// Loads of one layer: (experts, evaluations).
struct Load {
  std::vector<std::string> steps;
  std::vector<std::vector<double>> evaluations;
};

std::map<int64_t, Load> loads_of(const std::vector<Json>& rows) {
  std::map<int64_t, Load> layers;
  for (const Json& row : rows) {
    std::map<int64_t, std::vector<double>> found;
    for (const auto& [name, value] : row.items()) {
      const auto place = place_of(name);
      if (!place || !value.is_number()) continue;
      auto& loads = found[place->layer];
      loads.resize(std::max(loads.size(), static_cast<size_t>(place->expert) + 1), 0.0);
      loads[static_cast<size_t>(place->expert)] = value.get<double>();
    }
    for (auto& [layer, loads] : found) {
      layers[layer].steps.push_back(std::to_string(row["step"].get<int64_t>()));
      layers[layer].evaluations.push_back(std::move(loads));
    }
  }
  return layers;
}

Tensor matrix_of(const Load& load) {
  size_t experts = 0;
  for (const auto& loads : load.evaluations) experts = std::max(experts, loads.size());
  const auto columns = static_cast<int64_t>(load.evaluations.size());
  const Tensor out = zeros({static_cast<int64_t>(experts), columns});
  for (int64_t j = 0; j < columns; ++j) {
    const auto& loads = load.evaluations[static_cast<size_t>(j)];
    for (size_t i = 0; i < loads.size(); ++i) {
      out.data<float>()[static_cast<int64_t>(i) * columns + j] = static_cast<float>(loads[i]);
    }
  }
  return out;
}

double largest(const Load& load) {
  double most = 0;
  for (const auto& loads : load.evaluations) {
    for (const double share : loads) most = std::max(most, share);
  }
  return most;
}

class ExpertLoad final : public Picture {
 public:
  struct Config {
    TESSERA_FIELDS(f)
    { (void)f; }
  };
  explicit ExpertLoad(const Config&) {}

  bool offered(PictureInput& input) const override { return !loads_of(input.metrics()).empty(); }

  std::vector<NamedCanvas> draw(PictureInput& input) const override {
    const auto layers = loads_of(input.metrics());
    double most = 0;
    for (const auto& [layer, load] : layers) most = std::max(most, largest(load));
    std::vector<Captioned> panels;
    for (const auto& [layer, load] : layers) {
      const Tensor values = matrix_of(load);
      const int64_t cell =
          std::clamp<int64_t>(320 / std::max(values.size(0), values.size(1)), 4, 24);
      panels.push_back({tessera::draw(HeatMap{.values = values,
                                              .title = fmt::format("layer {}", layer),
                                              .x_label = "step",
                                              .y_label = "expert",
                                              .column_names = load.steps,
                                              .low = 0,
                                              .high = most,
                                              .cell = cell})});
    }
    return {{"expert_load", draw_grid(panels, 4, "Share of tokens per expert")}};
  }
};

TESSERA_REGISTER(Picture, ExpertLoad, "expert_load", "how experts share the tokens, over training",
                 "");

}  // namespace
}  // namespace tessera
