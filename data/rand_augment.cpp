#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "tessera/config/fields.h"
#include "tessera/data/image_color.h"
#include "tessera/data/image_geometry.h"
#include "tessera/data/transform.h"

namespace tessera {

namespace {

// Strength of an operation: `level` in [0, 1], `sign` ±1 for those with two directions.
struct Strength {
  double level;
  double sign;
  double both() const { return level * sign; }
  double factor() const { return 1 + 0.9 * both(); }
};

using Operation = Tensor (*)(const Tensor& image, const Strength& strength);

Tensor move(const Tensor& image, double angle, double shear, double dx, double dy) {
  return warp(image, affine_map(angle, 1, shear, dx, dy), 0.5);
}

// Shears along y.
Tensor shear_y(const Tensor& image, double shear) {
  return warp(image, {1, 0, 0, -std::tan(shear), 1, 0}, 0.5);
}

constexpr double kTurn = std::numbers::pi / 6;
constexpr double kShear = 0.3;
constexpr double kMove = 0.45;

constexpr Operation kOperations[] = {
    [](const Tensor& x, const Strength&) { return autocontrast(x); },
    [](const Tensor& x, const Strength&) { return equalize(x); },
    [](const Tensor& x, const Strength&) { return invert(x); },
    [](const Tensor& x, const Strength& s) { return move(x, kTurn * s.both(), 0, 0, 0); },
    [](const Tensor& x, const Strength& s) {
      return posterize(x, 8 - static_cast<int64_t>(4 * s.level));
    },
    [](const Tensor& x, const Strength& s) { return solarize(x, 1 - s.level); },
    [](const Tensor& x, const Strength& s) { return saturation(x, s.factor()); },
    [](const Tensor& x, const Strength& s) { return contrast(x, s.factor()); },
    [](const Tensor& x, const Strength& s) { return brightness(x, s.factor()); },
    [](const Tensor& x, const Strength& s) { return sharpness(x, s.factor()); },
    [](const Tensor& x, const Strength& s) { return move(x, 0, kShear * s.both(), 0, 0); },
    [](const Tensor& x, const Strength& s) { return shear_y(x, kShear * s.both()); },
    [](const Tensor& x, const Strength& s) {
      return move(x, 0, 0, kMove * s.both() * static_cast<double>(x.size(2)), 0);
    },
    [](const Tensor& x, const Strength& s) {
      return move(x, 0, 0, 0, kMove * s.both() * static_cast<double>(x.size(1)));
    },
};

struct RandAugmentConfig {
  int64_t count = 2;
  double magnitude = 9;
  double deviation = 0.5;
  TESSERA_FIELDS(f)
  {
    f("count", count, "operations applied to an image, one after another").min(0).max(100);
    f("magnitude", magnitude, "strength on a scale of 0 to 10").min(0).max(10);
    f("deviation", deviation, "standard deviation of the strength").min(0);
  }
};

struct RandAugmentTransform : Transform {
  using Config = RandAugmentConfig;
  Config config;
  explicit RandAugmentTransform(const Config& c) : config(c) {}
  bool train_only() const override { return true; }

  Tensor operator()(const Tensor& image, Generator* random) const override {
    Tensor x = image;
    for (int64_t i = 0; i < config.count; ++i) {
      const auto which = static_cast<size_t>(random->below(std::size(kOperations)));
      const double magnitude = config.magnitude + config.deviation * random->normal();
      const Strength strength{std::clamp(magnitude, 0.0, 10.0) / 10,
                              random->below(2) == 0 ? -1.0 : 1.0};
      if (random->uniform() < 0.5) x = kOperations[which](x, strength);
    }
    return x;
  }
};
TESSERA_REGISTER(Transform, RandAugmentTransform, "rand_augment",
                 "Random operations of one strength (14 of them; each applied half of the time)",
                 "Cubuk et al. 2019, arXiv 1909.13719");

}  // namespace

}  // namespace tessera
