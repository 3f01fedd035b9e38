// Images moved, cut and resized. All take and give (C, H, W) f32 and never change their argument.
#pragma once

#include <array>

#include "tessera/core/tensor.h"

namespace tessera {

enum class Resample { nearest, bilinear, bicubic };

// Separable resampling with the filter widened when shrinking (antialiased), as PIL and torchvision
// do: triangle filter, or cubic with a = −0.5, whose overshoot is cut off for images in [0, 1] as
// it is for bytes; nearest takes the pixel under the centre.
Tensor resize(const Tensor& image, int64_t height, int64_t width,
              Resample filter = Resample::bilinear);
// The shorter side becomes `size`, the longer one floor(size · long / short), as torchvision.
Tensor resize_shorter(const Tensor& image, int64_t size, Resample filter = Resample::bilinear);

// Rows y … y + height, columns x … x + width; what lies outside the image is `fill`.
Tensor crop(const Tensor& image, int64_t y, int64_t x, int64_t height, int64_t width,
            double fill = 0);
Tensor center_crop(const Tensor& image, int64_t height, int64_t width);  // as torchvision rounds
Tensor pad_reflect(const Tensor& image, int64_t padding);                // padding < H and < W
Tensor flip_horizontal(const Tensor& image);

// A map from output to input pixels around the centre: (x, y) reads m · (x, y, 1).
using AffineMap = std::array<double, 6>;
// The map of: scale, then shear (radians, along x), then turn counter-clockwise by `angle`
// (radians), then move by (dx, dy) pixels.
AffineMap affine_map(double angle, double scale, double shear, double dx, double dy);
// Bilinear sampling; outside the image it reads `fill`.
Tensor warp(const Tensor& image, const AffineMap& map, double fill = 0);

}  // namespace tessera
