// Which tokens of a text each layer of sparse modular activation lets attend (Ren et al. 2023).
#include <algorithm>

#include "tessera/analysis/picture.h"
#include "tessera/attention/seqboat.h"

namespace tessera {
namespace {

constexpr int64_t kMostTokens = 1 << 16;

class ActivatedTokens final : public Picture {
 public:
  struct Config {
    int64_t tokens = 400;
    int64_t columns = 80;
    TESSERA_FIELDS(f)
    {
      f("tokens", tokens, "length of the text looked at").min(1).max(kMostTokens);
      f("columns", columns, "letters of a line").min(8).max(400);
    }
  };
  explicit ActivatedTokens(const Config& config) : c_(config) {}

  bool offered(PictureInput& input) const override {
    Model& model = input.model();
    return dynamic_cast<LanguageModel*>(&model) != nullptr && !modules_of<SeqBoat>(model).empty();
  }

  std::vector<NamedCanvas> draw(PictureInput& input) const override {
    const Tensor tokens = input.tokens(c_.tokens);
    const std::vector<std::string> texts = input.token_texts(tokens);
    std::vector<Captioned> panels;
    std::vector<std::string> layers;
    Series rates{.name = "activation rate", .x = {}, .y = {}, .points = true};
    for (const auto& [path, active] : observe(input.model(), tokens, {"active"})) {
      const auto flags = active.to(DType::i64).to_vector<int64_t>();
      const auto layer = static_cast<int64_t>(panels.size());
      const double rate = static_cast<double>(std::count(flags.begin(), flags.end(), 1)) /
                          static_cast<double>(flags.size());
      panels.push_back({strip(texts, flags, layer),
                        fmt::format("layer {}: {:.1f} % of the tokens act", layer, 100 * rate)});
      layers.push_back(std::to_string(layer));
      rates.x.push_back(static_cast<double>(layer));
      rates.y.push_back(rate);
    }
    return {{"activated_tokens", draw_grid(panels, 1, "Tokens that attend, per layer")},
            {"activation_rate", tessera::draw(Chart{.title = "Activation rate over depth",
                                                    .x_label = "layer",
                                                    .y_label = "share of tokens that attend",
                                                    .series = {rates},
                                                    .low = 0,
                                                    .high = 1,
                                                    .x_names = layers})}};
  }

 private:
  Canvas strip(const std::vector<std::string>& texts, const std::vector<int64_t>& flags,
               int64_t layer) const {
    TextStrip s{.columns = c_.columns};
    const Color color = mix(category_color(layer), colors::kWhite, 0.45);
    for (size_t i = 0; i < texts.size(); ++i) {
      s.pieces.push_back({texts[i], flags[i] != 0 ? std::optional(color) : std::nullopt});
    }
    return tessera::draw(s);
  }

  Config c_;
};

TESSERA_REGISTER(Picture, ActivatedTokens, "activated_tokens",
                 "the tokens that each layer lets attend, and how many, over depth",
                 "Ren et al. 2023");

}  // namespace
}  // namespace tessera
