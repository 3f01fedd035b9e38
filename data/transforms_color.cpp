// Transforms that change values: normalize, grey, colour jitter, random erasing.
#include <algorithm>
#include <array>
#include <cmath>

#include "tessera/config/fields.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/data/image.h"
#include "tessera/data/image_color.h"
#include "tessera/data/transform.h"

namespace tessera {

namespace {

struct NormalizeConfig {
  std::vector<double> mean{0.5};
  std::vector<double> stddev{0.25};
  TESSERA_FIELDS(f)
  {
    f("mean", mean, "one value, or one per channel");
    f("std", stddev, "one value, or one per channel");
  }
};

struct NormalizeTransform : Transform {
  using Config = NormalizeConfig;
  Config config;
  explicit NormalizeTransform(const Config& c) : config(c) {
    for (double s : config.stddev) check(s > 0, "normalize.std: {} must be positive", s);
  }
  Tensor operator()(const Tensor& image, Generator*) const override {
    return normalize(image, config.mean, config.stddev);
  }
};
TESSERA_REGISTER(Transform, NormalizeTransform, "normalize", "(x - mean) / std per channel",
                 "torchvision.transforms");

struct GreyConfig {
  int64_t channels = 1;
  TESSERA_FIELDS(f)
  { f("channels", channels, "1, or 3 equal ones").one_of({1, 3}); }
};

struct GreyTransform : Transform {
  using Config = GreyConfig;
  Config config;
  explicit GreyTransform(const Config& c) : config(c) {}
  Tensor operator()(const Tensor& image, Generator*) const override {
    return with_channels(to_grey(image), config.channels);
  }
};
TESSERA_REGISTER(Transform, GreyTransform, "grayscale", "Weighted mean of the colours",
                 "ITU-R BT.601");

struct ColorJitterConfig {
  double brightness = 0.3;
  double contrast = 0.3;
  double saturation = 0.3;
  double hue = 0;
  TESSERA_FIELDS(f)
  {
    f("brightness", brightness, "factor from [1 - b, 1 + b]").min(0).max(1);
    f("contrast", contrast, "factor from [1 - c, 1 + c]").min(0).max(1);
    f("saturation", saturation, "factor from [1 - s, 1 + s]").min(0).max(1);
    f("hue", hue, "turn of the hue from [-h, h] of a circle").min(0).max(0.5);
  }
};

struct ColorJitterTransform : Transform {
  using Config = ColorJitterConfig;
  Config config;
  explicit ColorJitterTransform(const Config& c) : config(c) {}
  bool train_only() const override { return true; }
  Tensor operator()(const Tensor& image, Generator* random) const override {
    std::array<int, 4> order = {0, 1, 2, 3};
    for (size_t i = 3; i > 0; --i) {
      std::swap(order[i], order[static_cast<size_t>(random->below(static_cast<int64_t>(i) + 1))]);
    }
    const auto around = [&](double centre, double range) {
      return random->uniform(centre - range, centre + range);
    };
    Tensor x = image;
    for (int step : order) {
      if (step == 0) x = brightness(x, around(1, config.brightness));
      if (step == 1) x = contrast(x, around(1, config.contrast));
      if (step == 2) x = saturation(x, around(1, config.saturation));
      if (step == 3 && config.hue > 0) x = hue(x, around(0, config.hue));
    }
    return x;
  }
};
TESSERA_REGISTER(Transform, ColorJitterTransform, "color_jitter",
                 "Brightness, contrast, saturation and hue in random order",
                 "torchvision.transforms");

struct RandomErasingConfig {
  double probability = 0.25;
  double min_area = 0.02;
  double max_area = 1.0 / 3;
  double max_ratio = 3.3;
  std::string fill = "noise";
  TESSERA_FIELDS(f)
  {
    f("probability", probability, "how often").min(0).max(1);
    f("min_area", min_area, "smallest part of the area").min(0).max(1);
    f("max_area", max_area, "largest part of the area").min(0).max(1);
    f("max_ratio", max_ratio, "largest ratio of the box's sides, either way").min(1).max(100);
    f("fill", fill, "unit normal noise per pixel, or zeros").one_of({"noise", "zero"});
  }
};

// Stands behind normalize in the list: the fill is meant for normalised values.
struct RandomErasingTransform : Transform {
  using Config = RandomErasingConfig;
  Config config;
  explicit RandomErasingTransform(const Config& c) : config(c) {
    check(config.min_area <= config.max_area, "random_erasing: min_area {} is above max_area {}",
          config.min_area, config.max_area);
  }
  bool train_only() const override { return true; }

  Tensor operator()(const Tensor& image, Generator* random) const override {
    if (random->uniform() >= config.probability) return image;
    const int64_t height = image.size(1), width = image.size(2);
    const double log_ratio = std::log(config.max_ratio);
    for (int i = 0; i < 10; ++i) {
      const double area =
          static_cast<double>(height * width) * random->uniform(config.min_area, config.max_area);
      const double ratio = std::exp(random->uniform(-log_ratio, log_ratio));
      const auto h = static_cast<int64_t>(std::lround(std::sqrt(area * ratio)));
      const auto w = static_cast<int64_t>(std::lround(std::sqrt(area / ratio)));
      if (h >= height || w >= width) continue;
      return erase(image, random->below(height - h + 1), random->below(width - w + 1), h, w,
                   *random);
    }
    return image;
  }

 private:
  Tensor erase(const Tensor& image, int64_t top, int64_t left, int64_t height, int64_t width,
               Generator& random) const {
    const Tensor out = kernels::clone(image);
    for (int64_t c = 0; c < out.size(0); ++c) {
      for (int64_t y = top; y < top + height; ++y) {
        float* row = out.data<float>() + (c * out.size(1) + y) * out.size(2) + left;
        for (int64_t x = 0; x < width; ++x) {
          row[x] = config.fill == "noise" ? static_cast<float>(random.normal()) : 0.0f;
        }
      }
    }
    return out;
  }
};
TESSERA_REGISTER(Transform, RandomErasingTransform, "random_erasing",
                 "Fills a random box with noise or zeros", "Zhong et al. 2017, arXiv 1708.04896");

}  // namespace

}  // namespace tessera
