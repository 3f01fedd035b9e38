// Colours and tones of images (C, H, W) f32 in [0, 1]; none changes its argument. Factors as in PIL
// and torchvision: 1 leaves the image as it is, 0 gives the degenerate one.
#pragma once

#include <span>

#include "tessera/core/tensor.h"

namespace tessera {

// (1, H, W): 0.299 R + 0.587 G + 0.114 B; a grey image as it is.
Tensor to_grey(const Tensor& image);
// Grey to RGB repeats the channel, RGB to grey is to_grey; any other pair of counts is an Error.
Tensor with_channels(const Tensor& image, int64_t channels);
// (x − mean_c) / std_c; one value for all channels or one per channel.
Tensor normalize(const Tensor& image, std::span<const double> mean, std::span<const double> stddev);

Tensor brightness(const Tensor& image, double factor);   // factor · x
Tensor contrast(const Tensor& image, double factor);     // towards the mean grey
Tensor saturation(const Tensor& image, double factor);   // towards the grey image
Tensor sharpness(const Tensor& image, double factor);    // towards PIL's 3 x 3 smoothing
Tensor hue(const Tensor& image, double turn);            // turns the HSV hue by `turn` of a circle
Tensor invert(const Tensor& image);                      // 1 − x
Tensor solarize(const Tensor& image, double threshold);  // 1 − x where x ≥ threshold
Tensor posterize(const Tensor& image, int64_t bits);     // keeps the upper bits of the 8-bit value
Tensor autocontrast(const Tensor& image);                // each channel stretched to [0, 1]
Tensor equalize(const Tensor& image);  // each channel's 256-bin histogram made flat

}  // namespace tessera
