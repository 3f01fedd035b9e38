#include "tessera/data/mixup.h"

#include <algorithm>
#include <cmath>

#include "tessera/core/create.h"

namespace tessera {

namespace {

// Gamma(shape, 1) by Marsaglia and Tsang (2000), shape below 1 through Gamma(shape + 1).
double gamma_draw(double shape, Generator& random) {
  if (shape < 1) {
    return gamma_draw(shape + 1, random) * std::pow(1 - random.uniform(), 1 / shape);
  }
  const double d = shape - 1.0 / 3, c = 1 / std::sqrt(9 * d);
  for (;;) {
    const double x = random.normal();
    const double v = std::pow(1 + c * x, 3);
    if (v <= 0) continue;
    if (std::log(1 - random.uniform()) < 0.5 * x * x + d - d * v + d * std::log(v)) return d * v;
  }
}

struct Box {
  int64_t top, bottom, left, right;
};

// A box of the image's proportions and `share` of its area, centred anywhere, cut at the border.
Box draw_box(int64_t height, int64_t width, double share, Generator& random) {
  const double side = std::sqrt(share);
  const auto half_height = static_cast<int64_t>(static_cast<double>(height) * side) / 2;
  const auto half_width = static_cast<int64_t>(static_cast<double>(width) * side) / 2;
  const int64_t y = random.below(height), x = random.below(width);
  return {std::max<int64_t>(0, y - half_height), std::min(height, y + half_height),
          std::max<int64_t>(0, x - half_width), std::min(width, x + half_width)};
}

// Calls fn(image, partner) for every unordered pair (j, B − 1 − j); the middle one stays alone.
template <class Fn>
void for_each_pair(const Tensor& images, const Fn& fn) {
  const int64_t count = images.size(0);
  const int64_t size = count > 0 ? images.numel() / count : 0;
  for (int64_t j = 0; j < count / 2; ++j) {
    fn(images.data<float>() + j * size, images.data<float>() + (count - 1 - j) * size);
  }
}

void blend_images(const Tensor& images, double lambda) {
  const auto keep = static_cast<float>(lambda);
  const int64_t size = images.numel() / std::max<int64_t>(1, images.size(0));
  for_each_pair(images, [&](float* a, float* b) {
    for (int64_t i = 0; i < size; ++i) {
      const float x = a[i], y = b[i];
      a[i] = keep * x + (1 - keep) * y;
      b[i] = keep * y + (1 - keep) * x;
    }
  });
}

// The share of each image that stayed its own.
double swap_box(const Tensor& images, const Box& box) {
  const int64_t height = images.size(2), width = images.size(3);
  for_each_pair(images, [&](float* a, float* b) {
    for (int64_t c = 0; c < images.size(1); ++c) {
      for (int64_t y = box.top; y < box.bottom; ++y) {
        const int64_t row = (c * height + y) * width;
        std::swap_ranges(a + row + box.left, a + row + box.right, b + row + box.left);
      }
    }
  });
  const int64_t area = (box.bottom - box.top) * (box.right - box.left);
  return 1 - static_cast<double>(area) / static_cast<double>(height * width);
}

Tensor mixed_targets(const Tensor& labels, int64_t classes, double lambda, double smoothing) {
  const int64_t count = labels.numel();
  const int64_t* label = labels.data<int64_t>();
  const Tensor targets = full({count, classes}, smoothing / static_cast<double>(classes));
  for (int64_t j = 0; j < count; ++j) {
    float* row = targets.data<float>() + j * classes;
    row[label[j]] += static_cast<float>((1 - smoothing) * lambda);
    row[label[count - 1 - j]] += static_cast<float>((1 - smoothing) * (1 - lambda));
  }
  return targets;
}

}  // namespace

double beta_draw(double alpha, Generator& random) {
  check(alpha > 0, "beta_draw: alpha {} must be positive", alpha);
  const double a = gamma_draw(alpha, random), b = gamma_draw(alpha, random);
  return a + b > 0 ? a / (a + b) : 0.5;
}

void mix_batch(Batch& batch, const MixConfig& config, int64_t classes, Generator& random) {
  const Tensor &images = batch.at("images"), &labels = batch.at("labels");
  double lambda = 1;
  if (config.active() && random.uniform() < config.probability) {
    const bool cut =
        config.cutmix > 0 && (config.mixup <= 0 || random.uniform() < config.switching);
    lambda = beta_draw(cut ? config.cutmix : config.mixup, random);
    if (cut) {
      lambda = swap_box(images, draw_box(images.size(2), images.size(3), 1 - lambda, random));
    } else {
      blend_images(images, lambda);
    }
  }
  batch["soft_targets"] = mixed_targets(labels, classes, lambda, config.label_smoothing);
}

}  // namespace tessera
