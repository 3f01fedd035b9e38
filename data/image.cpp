#include "tessera/data/image.h"

#include <stb_image.h>
#include <stb_image_write.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "tessera/core/create.h"
#include "tessera/core/file.h"
#include "tessera/core/kernels/copy.h"

namespace tessera {

namespace {

// Interleaved samples of `components` (1 grey, 2 grey + alpha, 3 RGB, 4 RGB + alpha) to an image.
template <class Sample>
Tensor from_samples(const Sample* samples, int64_t height, int64_t width, int64_t components) {
  constexpr float unit = 1.0f / static_cast<float>(std::numeric_limits<Sample>::max());
  const int64_t channels = components <= 2 ? 1 : 3;
  const bool alpha = components == 2 || components == 4;
  const Tensor image = empty({channels, height, width});
  const int64_t pixels = height * width;
  for (int64_t c = 0; c < channels; ++c) {
    float* out = image.data<float>() + c * pixels;
    for (int64_t i = 0; i < pixels; ++i) {
      const float value = static_cast<float>(samples[i * components + c]) * unit;
      const float opacity =
          alpha ? static_cast<float>(samples[i * components + channels]) * unit : 1.0f;
      out[i] = value * opacity + (1.0f - opacity);
    }
  }
  return image;
}

std::string failure() {
  const char* reason = stbi_failure_reason();
  return reason == nullptr || *reason == '\0' ? "unknown format" : reason;
}

template <class Sample>
Tensor decode_with(Sample* (*decode)(const stbi_uc*, int, int*, int*, int*, int),
                   std::string_view bytes, const std::string& name) {
  int width = 0, height = 0, components = 0;
  const std::unique_ptr<Sample, void (*)(void*)> samples(
      decode(reinterpret_cast<const stbi_uc*>(bytes.data()), static_cast<int>(bytes.size()), &width,
             &height, &components, 0),
      stbi_image_free);
  check(samples != nullptr, "{}: byte 0: the image is broken: {}", name, failure());
  return from_samples(samples.get(), height, width, components);
}

}  // namespace

Tensor load_image(const std::filesystem::path& path) {
  return decode_image(read_file(path.string()), path.string());
}

Tensor decode_image(std::string_view bytes, const std::string& name) {
  const auto* data = reinterpret_cast<const stbi_uc*>(bytes.data());
  check(bytes.size() <= static_cast<size_t>(std::numeric_limits<int>::max()),
        "{}: byte 0: {} bytes are too many for an image", name, bytes.size());
  const int size = static_cast<int>(bytes.size());
  int width = 0, height = 0, components = 0;
  check(stbi_info_from_memory(data, size, &width, &height, &components) != 0,
        "{}: byte 0: no PNG, JPEG or BMP image that can be read: {}", name, failure());
  check(width > 0 && height > 0 && int64_t{width} * height <= kMaxPixels,
        "{}: byte 0: {} x {} pixels are outside 1 … {}", name, width, height, kMaxPixels);
  return stbi_is_16_bit_from_memory(data, size) ? decode_with(stbi_load_16_from_memory, bytes, name)
                                                : decode_with(stbi_load_from_memory, bytes, name);
}

bool is_image_file(const std::filesystem::path& path) {
  constexpr std::array<std::string_view, 4> endings = {".png", ".jpg", ".jpeg", ".bmp"};
  std::string ending = path.extension().string();
  std::transform(ending.begin(), ending.end(), ending.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return std::find(endings.begin(), endings.end(), ending) != endings.end();
}

std::string encode_png(const Tensor& image) {
  const Tensor x = as_image(image, "save_png");
  const int64_t channels = x.size(0), pixels = x.size(1) * x.size(2);
  check((channels == 1 || channels == 3) && pixels > 0,
        "save_png: wants (1, H, W) or (3, H, W), got {}", x.shape());
  std::vector<unsigned char> samples(static_cast<size_t>(channels * pixels));
  for (int64_t c = 0; c < channels; ++c) {
    const float* in = x.data<float>() + c * pixels;
    for (int64_t i = 0; i < pixels; ++i) {
      const float value = std::clamp(in[i], 0.0f, 1.0f) * 255.0f;
      samples[static_cast<size_t>(i * channels + c)] =
          static_cast<unsigned char>(std::lround(std::isnan(value) ? 0.0f : value));
    }
  }
  std::string bytes;
  const auto append = [](void* to, void* data, int size) {
    static_cast<std::string*>(to)->append(static_cast<const char*>(data),
                                          static_cast<size_t>(size));
  };
  const int done = stbi_write_png_to_func(append, &bytes, static_cast<int>(x.size(2)),
                                          static_cast<int>(x.size(1)), static_cast<int>(channels),
                                          samples.data(), 0);
  check(done != 0, "save_png: {} cannot be encoded", x.shape());
  return bytes;
}

void save_png(const std::filesystem::path& path, const Tensor& image) {
  write_file_atomic(path.string(), encode_png(image));
}

Tensor as_image(const Tensor& image, std::string_view op) {
  check(image.defined() && image.rank() == 3 && is_floating(image.dtype()),
        "{}: wants an image (C, H, W) of floats, got {} {}", op,
        image.defined() ? image.shape() : Shape{}, image.defined() ? image.dtype() : DType::f32);
  return kernels::contiguous(kernels::cast(image, DType::f32));
}

}  // namespace tessera
