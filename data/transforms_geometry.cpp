// Transforms that move pixels: resize, crops, flips, shifts, affine maps.
#include <cmath>
#include <numbers>

#include "tessera/config/fields.h"
#include "tessera/data/image.h"
#include "tessera/data/image_geometry.h"
#include "tessera/data/transform.h"

namespace tessera {

namespace {

constexpr double kMaxSize = 10'000;
constexpr const char* kTorchvision = "torchvision.transforms";

double symmetric(Generator& random, double range) {
  return random.uniform(-range, range);
}

Resample filter_from_name(const std::string& name) {
  if (name == "nearest") return Resample::nearest;
  return name == "bicubic" ? Resample::bicubic : Resample::bilinear;
}

struct ResizeConfig {
  int64_t size = 32;
  std::string filter = "bilinear";
  bool stretch = false;
  TESSERA_FIELDS(f)
  {
    f("size", size, "length of the shorter side").min(1).max(kMaxSize);
    f("stretch", stretch, "both sides get that length, whatever their ratio was");
    f("filter", filter, "how to interpolate").one_of({"nearest", "bilinear", "bicubic"});
  }
};

struct ResizeTransform : Transform {
  using Config = ResizeConfig;
  Config config;
  explicit ResizeTransform(const Config& c) : config(c) {}
  Tensor operator()(const Tensor& image, Generator*) const override {
    const Resample filter = filter_from_name(config.filter);
    return config.stretch ? resize(image, config.size, config.size, filter)
                          : resize_shorter(image, config.size, filter);
  }
};
TESSERA_REGISTER(Transform, ResizeTransform, "resize", "Resizes the shorter side, or both",
                 kTorchvision);

struct CenterCropConfig {
  int64_t size = 32;
  TESSERA_FIELDS(f)
  { f("size", size, "height and width").min(1).max(kMaxSize); }
};

struct CenterCropTransform : Transform {
  using Config = CenterCropConfig;
  Config config;
  explicit CenterCropTransform(const Config& c) : config(c) {}
  Tensor operator()(const Tensor& image, Generator*) const override {
    return center_crop(image, config.size, config.size);
  }
};
TESSERA_REGISTER(Transform, CenterCropTransform, "center_crop", "Cuts a square from the centre",
                 kTorchvision);

struct RandomResizedCropConfig {
  int64_t size = 32;
  double min_area = 0.08;
  double max_ratio = 4.0 / 3;
  double eval_zoom = 1.14;
  std::string filter = "bicubic";
  TESSERA_FIELDS(f)
  {
    f("size", size, "height and width of the result").min(1).max(kMaxSize);
    f("min_area", min_area, "smallest part of the image's area that is cut out").min(0.001).max(1);
    f("max_ratio", max_ratio, "largest ratio of the cut's sides, either way").min(1).max(100);
    f("eval_zoom", eval_zoom, "evaluation resizes the shorter side to this many sizes")
        .min(1)
        .max(10);
    f("filter", filter, "how to interpolate").one_of({"nearest", "bilinear", "bicubic"});
  }
};

// Evaluation: resize the shorter side to eval_zoom · size, then the centre.
struct RandomResizedCropTransform : Transform {
  using Config = RandomResizedCropConfig;
  Config config;
  explicit RandomResizedCropTransform(const Config& c) : config(c) {}

  Tensor operator()(const Tensor& image, Generator* random) const override {
    const Resample filter = filter_from_name(config.filter);
    if (random == nullptr) {
      const auto side = std::lround(config.eval_zoom * static_cast<double>(config.size));
      return center_crop(resize_shorter(image, side, filter), config.size, config.size);
    }
    return resize(cut(image, *random), config.size, config.size, filter);
  }

 private:
  // Ten tries for a box of random area and ratio inside the image, else the largest centre square.
  Tensor cut(const Tensor& image, Generator& random) const {
    const int64_t height = image.size(1), width = image.size(2);
    const double log_ratio = std::log(config.max_ratio);
    for (int i = 0; i < 10; ++i) {
      const double area = static_cast<double>(height * width) * random.uniform(config.min_area, 1);
      const double ratio = std::exp(symmetric(random, log_ratio));
      const auto w = static_cast<int64_t>(std::lround(std::sqrt(area * ratio)));
      const auto h = static_cast<int64_t>(std::lround(std::sqrt(area / ratio)));
      if (w < 1 || h < 1 || w > width || h > height) continue;
      return crop(image, random.below(height - h + 1), random.below(width - w + 1), h, w);
    }
    return center_crop(image, std::min(height, width), std::min(height, width));
  }
};
TESSERA_REGISTER(Transform, RandomResizedCropTransform, "random_resized_crop",
                 "Cuts a random box and resizes it; evaluation takes the centre", kTorchvision);

struct PadCropConfig {
  int64_t padding = 4;
  bool reflect = false;
  TESSERA_FIELDS(f)
  {
    f("padding", padding, "pixels added on every side before cutting").min(0).max(kMaxSize);
    f("reflect", reflect, "pad with the mirrored image instead of zeros");
  }
};

struct PadCropTransform : Transform {
  using Config = PadCropConfig;
  Config config;
  explicit PadCropTransform(const Config& c) : config(c) {}
  bool train_only() const override { return true; }
  Tensor operator()(const Tensor& image, Generator* random) const override {
    const int64_t y = random->below(2 * config.padding + 1);
    const int64_t x = random->below(2 * config.padding + 1);
    if (config.reflect) {
      return crop(pad_reflect(image, config.padding), y, x, image.size(1), image.size(2));
    }
    return crop(image, y - config.padding, x - config.padding, image.size(1), image.size(2));
  }
};
TESSERA_REGISTER(Transform, PadCropTransform, "pad_crop", "Pads, then cuts the old size anywhere",
                 kTorchvision);

struct RandomFlipConfig {
  double probability = 0.5;
  TESSERA_FIELDS(f)
  { f("probability", probability, "how often").min(0).max(1); }
};

struct RandomFlipTransform : Transform {
  using Config = RandomFlipConfig;
  Config config;
  explicit RandomFlipTransform(const Config& c) : config(c) {}
  bool train_only() const override { return true; }
  Tensor operator()(const Tensor& image, Generator* random) const override {
    return random->uniform() < config.probability ? flip_horizontal(image) : image;
  }
};
TESSERA_REGISTER(Transform, RandomFlipTransform, "random_flip", "Mirrors left and right",
                 kTorchvision);

struct RandomShiftConfig {
  int64_t max = 2;
  TESSERA_FIELDS(f)
  { f("max", max, "largest shift in pixels, both ways, each axis").min(0).max(kMaxSize); }
};

struct RandomShiftTransform : Transform {
  using Config = RandomShiftConfig;
  Config config;
  explicit RandomShiftTransform(const Config& c) : config(c) {}
  bool train_only() const override { return true; }
  Tensor operator()(const Tensor& image, Generator* random) const override {
    const int64_t y = random->below(2 * config.max + 1) - config.max;
    const int64_t x = random->below(2 * config.max + 1) - config.max;
    return crop(image, y, x, image.size(1), image.size(2));
  }
};
TESSERA_REGISTER(Transform, RandomShiftTransform, "random_shift",
                 "Moves by whole pixels, zeros come in", kTorchvision);

struct RandomAffineConfig {
  double degrees = 10;
  double shift = 0.1;
  double zoom = 0.1;
  double shear = 0;
  TESSERA_FIELDS(f)
  {
    f("degrees", degrees, "largest turn, both ways").min(0).max(180);
    f("shift", shift, "largest move along each axis, as a part of the size").min(0).max(1);
    f("zoom", zoom, "largest change of scale, both ways").min(0).max(0.95);
    f("shear", shear, "largest shear in degrees, both ways").min(0).max(80);
  }
};

struct RandomAffineTransform : Transform {
  using Config = RandomAffineConfig;
  Config config;
  explicit RandomAffineTransform(const Config& c) : config(c) {}
  bool train_only() const override { return true; }
  Tensor operator()(const Tensor& image, Generator* random) const override {
    constexpr double degree = std::numbers::pi / 180;
    const double angle = symmetric(*random, config.degrees * degree);
    const double scale = 1 + symmetric(*random, config.zoom);
    const double shear = symmetric(*random, config.shear * degree);
    const double dx = symmetric(*random, config.shift) * static_cast<double>(image.size(2));
    const double dy = symmetric(*random, config.shift) * static_cast<double>(image.size(1));
    return warp(image, affine_map(angle, scale, shear, dx, dy));
  }
};
TESSERA_REGISTER(Transform, RandomAffineTransform, "random_affine",
                 "Turns, moves, scales and shears with bilinear sampling", kTorchvision);

}  // namespace

}  // namespace tessera
