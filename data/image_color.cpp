#include "tessera/data/image_color.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/data/image.h"

namespace tessera {

namespace {

int64_t plane(const Tensor& x) {
  return x.size(1) * x.size(2);
}
float* channel(const Tensor& x, int64_t c) {
  return x.data<float>() + c * plane(x);
}
float clamp01(float x) {
  return std::clamp(x, 0.0f, 1.0f);
}

template <class Fn>
Tensor map_values(const Tensor& image, std::string_view op, const Fn& fn) {
  const Tensor x = as_image(image, op);
  const Tensor out = empty(x.shape());
  std::transform(x.data<float>(), x.data<float>() + x.numel(), out.data<float>(), fn);
  return out;
}

// degenerate + factor · (x − degenerate), clamped; the degenerate image may have one channel.
Tensor blend(const Tensor& x, const Tensor& degenerate, double factor) {
  const Tensor out = empty(x.shape());
  const auto f = static_cast<float>(factor);
  for (int64_t c = 0; c < x.size(0); ++c) {
    const float* from = channel(degenerate, degenerate.size(0) == 1 ? 0 : c);
    const float* in = channel(x, c);
    float* to = channel(out, c);
    for (int64_t i = 0; i < plane(x); ++i) to[i] = clamp01(from[i] + f * (in[i] - from[i]));
  }
  return out;
}

struct Rgb {
  float r, g, b;
};

// Turns the hue of one colour; saturation and value stay.
Rgb turn_hue(Rgb in, float turn) {
  const float high = std::max({in.r, in.g, in.b});
  const float chroma = high - std::min({in.r, in.g, in.b});
  if (chroma <= 0) return in;
  float sector = high == in.r   ? (in.g - in.b) / chroma
                 : high == in.g ? (in.b - in.r) / chroma + 2
                                : (in.r - in.g) / chroma + 4;
  sector += 6 * turn;
  const auto part = [&](float offset) {
    const float k = offset + sector - 6 * std::floor((offset + sector) / 6);
    return high - chroma * std::max(0.0f, std::min({k, 4 - k, 1.0f}));
  };
  return {part(5), part(3), part(1)};
}

// PIL's "smooth" filter (1 1 1; 1 5 1; 1 1 1) / 13; the border stays.
Tensor smooth(const Tensor& x) {
  const Tensor out = kernels::clone(x);
  const int64_t height = x.size(1), width = x.size(2);
  for (int64_t c = 0; c < x.size(0); ++c) {
    for (int64_t row = 1; row + 1 < height; ++row) {
      for (int64_t column = 1; column + 1 < width; ++column) {
        const float* at = channel(x, c) + row * width + column;
        float sum = 4 * at[0];
        for (int64_t dy = -1; dy <= 1; ++dy) {
          for (int64_t dx = -1; dx <= 1; ++dx) sum += at[dy * width + dx];
        }
        channel(out, c)[row * width + column] = sum / 13;
      }
    }
  }
  return out;
}

int64_t level(float value) {
  return std::lround(clamp01(value) * 255.0f);
}

// PIL's table: the cumulative histogram divided by an even share of all but the last bin.
std::array<float, 256> equalizing_table(const float* values, int64_t count) {
  std::array<int64_t, 256> histogram{};
  for (int64_t i = 0; i < count; ++i) ++histogram[static_cast<size_t>(level(values[i]))];
  int64_t last = 0;
  for (int64_t bin : histogram) last = bin > 0 ? bin : last;
  const int64_t step = (count - last) / 255;
  std::array<float, 256> table{};
  int64_t sum = step / 2;
  for (size_t i = 0; i < 256; ++i) {
    const int64_t value = step > 0 ? std::min<int64_t>(255, sum / step) : static_cast<int64_t>(i);
    table[i] = static_cast<float>(value) / 255.0f;
    sum += histogram[i];
  }
  return table;
}

}  // namespace

Tensor to_grey(const Tensor& image) {
  const Tensor x = as_image(image, "to_grey");
  if (x.size(0) == 1) return x;
  check(x.size(0) == 3, "to_grey: wants 1 or 3 channels, got {}", x.shape());
  const Tensor out = empty({1, x.size(1), x.size(2)});
  const float *r = channel(x, 0), *g = channel(x, 1), *b = channel(x, 2);
  for (int64_t i = 0; i < plane(x); ++i) {
    out.data<float>()[i] = 0.299f * r[i] + 0.587f * g[i] + 0.114f * b[i];
  }
  return out;
}

Tensor with_channels(const Tensor& image, int64_t channels) {
  const Tensor x = as_image(image, "with_channels");
  if (x.size(0) == channels) return x;
  if (channels == 1) return to_grey(x);
  check(x.size(0) == 1 && channels == 3, "with_channels: cannot make {} channels from an image {}",
        channels, x.shape());
  const Tensor out = empty({3, x.size(1), x.size(2)});
  for (int64_t c = 0; c < 3; ++c) std::copy_n(x.data<float>(), plane(x), channel(out, c));
  return out;
}

Tensor normalize(const Tensor& image, std::span<const double> mean,
                 std::span<const double> stddev) {
  const Tensor x = as_image(image, "normalize");
  const auto channels = static_cast<size_t>(x.size(0));
  const auto fits = [&](size_t count) { return count == 1 || count == channels; };
  check(fits(mean.size()) && fits(stddev.size()),
        "normalize: {} means and {} deviations for an image {}; give one or one per channel",
        mean.size(), stddev.size(), x.shape());
  const Tensor out = empty(x.shape());
  for (size_t c = 0; c < channels; ++c) {
    const double scale = 1 / stddev[stddev.size() == 1 ? 0 : c];
    const auto a = static_cast<float>(scale);
    const auto b = static_cast<float>(-mean[mean.size() == 1 ? 0 : c] * scale);
    const float* in = channel(x, static_cast<int64_t>(c));
    float* to = channel(out, static_cast<int64_t>(c));
    for (int64_t i = 0; i < plane(x); ++i) to[i] = a * in[i] + b;
  }
  return out;
}

Tensor brightness(const Tensor& image, double factor) {
  const auto f = static_cast<float>(factor);
  return map_values(image, "brightness", [f](float x) { return clamp01(f * x); });
}

Tensor contrast(const Tensor& image, double factor) {
  const Tensor x = as_image(image, "contrast");
  const Tensor grey = to_grey(x);
  double sum = 0;
  for (int64_t i = 0; i < plane(x); ++i) sum += grey.data<float>()[i];
  const double mean = plane(x) > 0 ? sum / static_cast<double>(plane(x)) : 0;
  return blend(x, full({1, x.size(1), x.size(2)}, mean), factor);
}

Tensor saturation(const Tensor& image, double factor) {
  const Tensor x = as_image(image, "saturation");
  return blend(x, to_grey(x), factor);
}

Tensor sharpness(const Tensor& image, double factor) {
  const Tensor x = as_image(image, "sharpness");
  return blend(x, smooth(x), factor);
}

Tensor hue(const Tensor& image, double turn) {
  const Tensor x = as_image(image, "hue");
  if (x.size(0) == 1) return x;
  check(x.size(0) == 3, "hue: wants 1 or 3 channels, got {}", x.shape());
  const Tensor out = empty(x.shape());
  for (int64_t i = 0; i < plane(x); ++i) {
    const Rgb to =
        turn_hue({channel(x, 0)[i], channel(x, 1)[i], channel(x, 2)[i]}, static_cast<float>(turn));
    channel(out, 0)[i] = to.r;
    channel(out, 1)[i] = to.g;
    channel(out, 2)[i] = to.b;
  }
  return out;
}

Tensor invert(const Tensor& image) {
  return map_values(image, "invert", [](float x) { return 1 - x; });
}

Tensor solarize(const Tensor& image, double threshold) {
  const auto t = static_cast<float>(threshold);
  return map_values(image, "solarize", [t](float x) { return x >= t ? 1 - x : x; });
}

Tensor posterize(const Tensor& image, int64_t bits) {
  check(bits >= 0 && bits <= 8, "posterize: bits {} is outside 0 … 8", bits);
  const int64_t mask = 0xFF & ~((1 << (8 - bits)) - 1);
  return map_values(image, "posterize",
                    [mask](float x) { return static_cast<float>(level(x) & mask) / 255.0f; });
}

Tensor autocontrast(const Tensor& image) {
  const Tensor x = as_image(image, "autocontrast");
  const Tensor out = kernels::clone(x);
  for (int64_t c = 0; c < x.size(0) && plane(x) > 0; ++c) {
    const auto [low, high] = std::minmax_element(channel(x, c), channel(x, c) + plane(x));
    const float base = *low, range = *high - *low;
    if (range <= 0) continue;
    for (int64_t i = 0; i < plane(x); ++i) channel(out, c)[i] = (channel(x, c)[i] - base) / range;
  }
  return out;
}

Tensor equalize(const Tensor& image) {
  const Tensor x = as_image(image, "equalize");
  const Tensor out = empty(x.shape());
  for (int64_t c = 0; c < x.size(0); ++c) {
    const auto table = equalizing_table(channel(x, c), plane(x));
    for (int64_t i = 0; i < plane(x); ++i) {
      channel(out, c)[i] = table[static_cast<size_t>(level(channel(x, c)[i]))];
    }
  }
  return out;
}

}  // namespace tessera
