#include "tessera/config/registry.h"
#include "tessera/core/create.h"
#include "tessera/data/generated.h"
#include "tessera/data/image_dataset.h"

namespace tessera {

namespace {

struct RandomImagesConfig : ImageConfig, GeneratedSizes {
  int64_t channels = 3;
  int64_t size = 224;
  int64_t classes = 1000;
  TESSERA_FIELDS(f)
  {
    f("channels", channels, "of an image").min(1).max(1 << 12);
    f("size", size, "height and width").min(1).max(1 << 14);
    f("classes", classes, "of labels").min(1).max(1 << 20);
    size_fields(f);
    image_fields(f);
  }
};

// Independent uniform pixels and labels. Nothing can be learnt: for measurements, and for models of
// published sizes.
struct RandomImagesDataset : ImageDataset {
  using Config = RandomImagesConfig;
  RandomImagesDataset(const Config& c, const DataContext& context)
      : ImageDataset(c), config(c), seed(context.seed) {
    DataInfo info;
    info.channels = c.channels;
    info.height = info.width = c.size;
    info.classes = c.classes;
    set_info(info);
  }
  int64_t size(Split split) const override { return config.of(split); }
  LabelledImage sample(Split split, int64_t index) const override {
    Generator random = example_generator(seed, split, index);
    const Tensor image = empty({config.channels, config.size, config.size});
    auto* pixel = image.data<float>();
    for (int64_t i = 0; i < image.numel(); ++i) pixel[i] = static_cast<float>(random.uniform());
    return {image, random.below(config.classes)};
  }
  Config config;
  uint64_t seed;
};
TESSERA_REGISTER(Dataset, RandomImagesDataset, "random_images",
                 "uniform random pixels of any size, for measurements", "generated");

}  // namespace

}  // namespace tessera
