// Which tokens each head attends to.
#include <algorithm>

#include "tessera/analysis/picture.h"
#include "tessera/attention/gpsa.h"
#include "tessera/attention/mssa.h"
#include "tessera/attention/self_attention.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/view.h"

namespace tessera {
namespace {

constexpr int64_t kMostTokens = 1024;

Tensor head_of(const Tensor& weights, int64_t head) {
  return kernels::contiguous(views::select(views::select(weights, 0, 0), 0, head));  // (N, M)
}

// The end of the colours: nearly all entries lie below it. The first queries, which see few keys,
// would leave the others dark.
double bright(const Tensor& weights) {
  std::vector<double> seen;
  for (const double w : weights.to_vector<double>()) {
    if (w > 0) seen.push_back(w);
  }
  if (seen.empty()) return 1;
  const auto at = static_cast<ptrdiff_t>(0.97 * static_cast<double>(seen.size() - 1));
  std::nth_element(seen.begin(), seen.begin() + at, seen.end());
  return seen[static_cast<size_t>(at)];
}

// A grid of the image's form that `tokens` fill, apart from up to two tokens before it.
struct Grid {
  int64_t prefix = 0, rows = 0, columns = 0;
};

std::optional<Grid> grid_of(int64_t tokens, int64_t height, int64_t width) {
  for (int64_t prefix = 0; prefix <= 2; ++prefix) {
    for (int64_t rows = 1; rows <= tokens - prefix; ++rows) {
      if (rows * width % height != 0) continue;
      const int64_t columns = rows * width / height;
      if (rows * columns == tokens - prefix) return Grid{prefix, rows, columns};
    }
  }
  return std::nullopt;
}

// What the class token attends to, or, without one, all patches in the mean: (rows, columns).
Tensor attended(const Tensor& weights, const Grid& g) {
  const int64_t keys = weights.size(1);
  const auto all = weights.to_vector<float>();
  const int64_t queries = g.prefix > 0 ? 1 : weights.size(0);
  std::vector<float> mean(static_cast<size_t>(g.rows * g.columns));
  for (int64_t i = 0; i < queries; ++i) {
    for (size_t j = 0; j < mean.size(); ++j) {
      const auto at = static_cast<size_t>(i * keys + g.prefix) + j;
      mean[j] += all[at] / static_cast<float>(queries);
    }
  }
  return from_values(mean, {g.rows, g.columns});
}

class AttentionMaps final : public Picture {
 public:
  struct Config {
    int64_t tokens = 48;
    int64_t images = 1;
    std::optional<int64_t> layer;
    TESSERA_FIELDS(f)
    {
      f("tokens", tokens, "length of the text looked at").min(1).max(kMostTokens);
      f("images", images, "how many images").min(1).max(64);
      f("layer", layer, "one layer, larger; default: all").min(0);
    }
  };
  explicit AttentionMaps(const Config& config) : c_(config) {}

  bool offered(PictureInput& input) const override {
    Model& model = input.model();
    const bool reads = dynamic_cast<LanguageModel*>(&model) != nullptr ||
                       dynamic_cast<ImageClassifier*>(&model) != nullptr;
    return reads &&
           (!modules_of<SelfAttention>(model).empty() ||
            !modules_of<GpsaAttention>(model).empty() || !modules_of<MssaAttention>(model).empty());
  }

  std::vector<NamedCanvas> draw(PictureInput& input) const override {
    if (dynamic_cast<LanguageModel*>(&input.model()) != nullptr) return {on_text(input)};
    std::vector<NamedCanvas> all;
    const Tensor images = input.images(c_.images);
    for (int64_t i = 0; i < images.size(0); ++i) {
      const std::string suffix = images.size(0) > 1 ? fmt::format("_{}", i) : "";
      all.push_back(
          {"attention_maps" + suffix, on_image(input, views::slice(images, 0, i, i + 1))});
    }
    return all;
  }

 private:
  // (1, H, N, M) of each layer looked at, with the layer's place.
  std::vector<std::pair<int64_t, Tensor>> weights(Model& model, const Tensor& in) const {
    const WeightsScope scope;
    const auto seen = observe(model, in, {".weights"});
    std::vector<std::pair<int64_t, Tensor>> layers;
    for (size_t i = 0; i < seen.size(); ++i) {
      const auto layer = static_cast<int64_t>(i);
      if (!c_.layer || *c_.layer == layer) layers.emplace_back(layer, seen[i].second);
    }
    check(!layers.empty(), "attention_maps: the model has {} layers of attention, not a layer {}",
          seen.size(), c_.layer.value_or(0));
    return layers;
  }

  NamedCanvas on_text(PictureInput& input) const {
    const Tensor tokens = input.tokens(c_.tokens);
    const std::vector<std::string> texts = input.token_texts(tokens);
    const int64_t cell = std::max<int64_t>(1, (c_.layer ? 480 : 168) / tokens.size(1));
    std::vector<Captioned> panels;
    int64_t heads = 1;
    for (const auto& [layer, w] : weights(input.model(), tokens)) {
      heads = w.size(1);
      for (int64_t h = 0; h < heads; ++h) {
        const Tensor head = head_of(w, h);
        HeatMap map{.values = head, .low = 0, .high = bright(head), .bar = false, .cell = cell};
        if (cell >= 9) map.row_names = map.column_names = texts;
        panels.push_back({tessera::draw(map), fmt::format("layer {}, head {}", layer, h)});
      }
    }
    const int64_t columns = c_.layer ? std::min<int64_t>(heads, 3) : heads;
    return {"attention_maps",
            draw_grid(panels, columns, "Attention: queries downwards, keys to the right")};
  }

  Canvas on_image(PictureInput& input, const Tensor& images) const {
    const Tensor shown = views::select(input.shown(images), 0, 0);
    const int64_t side = c_.layer ? 280 : 140;
    const auto layers = weights(input.model(), images);
    const int64_t heads = layers.front().second.size(1);
    std::vector<Captioned> panels;
    const Canvas plain = tessera::draw(Overlay{.image = shown, .heat = {}, .side = side});
    for (const auto& [layer, w] : layers) {
      const auto grid = grid_of(w.size(3), shown.size(1), shown.size(2));
      const char* who = grid && grid->prefix > 0 ? "class token" : "all patches";
      panels.push_back({plain, fmt::format("layer {}, {}", layer, who)});
      for (int64_t h = 0; h < heads; ++h) {
        const Tensor head = head_of(w, std::min(h, w.size(1) - 1));
        panels.push_back({grid ? tessera::draw(Overlay{.image = shown,
                                                       .heat = attended(head, *grid),
                                                       .opacity = 0.75,
                                                       .side = side})
                               : tessera::draw(HeatMap{.values = head, .bar = false}),
                          fmt::format("head {}", h)});
      }
    }
    return draw_grid(panels, heads + 1, "Attention on an image");
  }

  Config c_;
};

TESSERA_REGISTER(Picture, AttentionMaps, "attention_maps",
                 "what each head attends to, on a text or over an image", "");

}  // namespace
}  // namespace tessera
