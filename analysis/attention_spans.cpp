// Which tokens the layers of a model with mixed spans see.
#include "tessera/analysis/picture.h"
#include "tessera/attention/masformer.h"
#include "tessera/core/create.h"

namespace tessera {
namespace {

constexpr int64_t kPanel = 160;  // pixels, about

// Row i, column j of `cells`²: the share of its entries that count.
Tensor coverage(const Span& span, int64_t tokens, int64_t cells) {
  std::vector<float> values(static_cast<size_t>(cells * cells), 0);
  std::vector<float> all(values.size(), 0);
  for (int64_t i = 0; i < tokens; ++i) {
    const int64_t first = span.first_key(i);
    for (int64_t j = 0; j < tokens; ++j) {
      const auto cell = static_cast<size_t>(i * cells / tokens * cells + j * cells / tokens);
      all[cell] += 1;
      if (j >= first && j <= i) values[cell] += 1;
    }
  }
  for (size_t c = 0; c < values.size(); ++c) values[c] /= all[c];
  return from_values(values, {cells, cells});
}

class AttentionSpans final : public Picture {
 public:
  struct Config {
    std::optional<int64_t> tokens;
    TESSERA_FIELDS(f)
    { f("tokens", tokens, "length of the text; default: the model's context").min(1).max(1 << 14); }
  };
  explicit AttentionSpans(const Config& config) : c_(config) {}

  bool offered(PictureInput& input) const override {
    return !modules_of<Masformer>(input.model()).empty();
  }

  std::vector<NamedCanvas> draw(PictureInput& input) const override {
    const auto layers = modules_of<Masformer>(input.model());
    const auto* lm = dynamic_cast<const LanguageModel*>(&input.model());
    const int64_t tokens = c_.tokens.value_or(lm != nullptr ? lm->context_length() : 256);
    const auto full = static_cast<double>(Span{}.entries(tokens));
    std::vector<Captioned> panels;
    double entries = 0;
    for (size_t i = 0; i < layers.size(); ++i) {
      const Span& span = layers[i].second->span();
      const auto own = static_cast<double>(span.entries(tokens));
      entries += own;
      const int64_t cells = std::min(tokens, kPanel);
      std::vector<std::string> places;
      for (int64_t c = 0; c < cells; ++c) places.push_back(std::to_string(c * tokens / cells));
      panels.push_back(
          {tessera::draw(HeatMap{.values = coverage(span, tokens, cells),
                                 .row_names = places,
                                 .column_names = places,
                                 .low = 0,
                                 .high = 1,
                                 .bar = false,
                                 .cell = kPanel / cells}),
           fmt::format("layer {}: {}, {:.1f} %", i, to_string(span), 100 * own / full)});
    }
    const double share = 100 * entries / (full * static_cast<double>(layers.size()));
    return {{"attention_spans",
             draw_grid(panels, std::min<int64_t>(std::ssize(panels), 4),
                       fmt::format("{} tokens: {:.1f} % of the score entries of full attention",
                                   tokens, share))}};
  }

 private:
  Config c_;
};

TESSERA_REGISTER(Picture, AttentionSpans, "attention_spans", "what each layer of MASFormer sees",
                 "Zhang et al. 2023");

}  // namespace
}  // namespace tessera
