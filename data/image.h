// Image files. In memory an image is a tensor (C, H, W), f32 in [0, 1], C = 1 (grey) or 3 (RGB).
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "tessera/core/tensor.h"

namespace tessera {

constexpr int64_t kMaxPixels = 100'000'000;  // larger images are refused before decoding

// PNG, JPEG and BMP, 8 and 16 bits a sample, grey and colour; transparent pixels are laid over
// white. What no decoder takes throws Error "FILE: byte 0: …".
Tensor load_image(const std::filesystem::path& path);
Tensor decode_image(std::string_view bytes, const std::string& name);

// Whether a name ends as those of such files do, in any case.
bool is_image_file(const std::filesystem::path& path);

// An 8-bit PNG of an image, values rounded after clamping to [0, 1].
std::string encode_png(const Tensor& image);
void save_png(const std::filesystem::path& path, const Tensor& image);

// A dense f32 copy of the shape (C, H, W) or an Error that begins with `op`; for functions on
// images.
Tensor as_image(const Tensor& image, std::string_view op);

}  // namespace tessera
