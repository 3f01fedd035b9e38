// The drawn datasets: glyphs, shapes, odd_corner.
#include <iterator>

#include "tessera/data/generated.h"
#include "tessera/data/image_dataset.h"

namespace tessera {

namespace {

struct GlyphsConfig : ImageConfig, GeneratedSizes {
  int64_t size = 28;
  TESSERA_FIELDS(f)
  {
    f("size", size, "height and width").min(8).max(512);
    size_fields(f);
    image_fields(f);
  }
};

struct PicturesConfig : ImageConfig, GeneratedSizes {
  TESSERA_FIELDS(f)
  {
    size_fields(f);
    image_fields(f);
  }
};

DataInfo image_info(int64_t channels, int64_t size, std::vector<std::string> names) {
  DataInfo info;
  info.channels = channels;
  info.height = info.width = size;
  info.classes = static_cast<int64_t>(names.size());
  info.class_names = std::move(names);
  return info;
}

struct GlyphsDataset : ImageDataset {
  using Config = GlyphsConfig;
  GlyphsDataset(const Config& c, const DataContext& context)
      : ImageDataset(c), config(c), seed(context.seed) {
    set_info(image_info(1, c.size, {"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"}));
  }
  int64_t size(Split split) const override { return config.of(split); }
  LabelledImage sample(Split split, int64_t index) const override {
    Generator random = example_generator(seed, split, index);
    return draw_glyph(config.size, random);
  }
  Config config;
  uint64_t seed;
};
TESSERA_REGISTER(Dataset, GlyphsDataset, "glyphs", "Digit-like images drawn from a stroke font",
                 "generated");

struct ShapesDataset : ImageDataset {
  using Config = PicturesConfig;
  ShapesDataset(const Config& c, const DataContext& context)
      : ImageDataset(c), config(c), seed(context.seed) {
    set_info(image_info(3, 32, {std::begin(kShapeNames), std::end(kShapeNames)}));
  }
  int64_t size(Split split) const override { return config.of(split); }
  LabelledImage sample(Split split, int64_t index) const override {
    Generator random = example_generator(seed, split, index);
    return draw_shape(random);
  }
  Config config;
  uint64_t seed;
};
TESSERA_REGISTER(Dataset, ShapesDataset, "shapes", "Ten tilted shapes with distractors and noise",
                 "generated (SynthShapes)");

struct OddCornerDataset : ImageDataset {
  using Config = PicturesConfig;
  OddCornerDataset(const Config& c, const DataContext& context)
      : ImageDataset(c), config(c), seed(context.seed) {
    set_info(image_info(3, 32, {std::begin(kCornerColours), std::end(kCornerColours)}));
  }
  int64_t size(Split split) const override { return config.of(split); }
  LabelledImage sample(Split split, int64_t index) const override {
    Generator random = example_generator(seed, split, index);
    return draw_odd_corner(random);
  }
  Config config;
  uint64_t seed;
};
TESSERA_REGISTER(Dataset, OddCornerDataset, "odd_corner",
                 "Which colour is the odd one of three blocks in the corners: a long-range test",
                 "generated (OddCorner)");

}  // namespace

}  // namespace tessera
