// Resizing images, rearranging pixels and sampling at given points. f32 and f64, on CUDA the halves
// too.
#pragma once

#include "tessera/core/tensor.h"

namespace tessera {

enum class Interpolation { nearest, bilinear, bicubic };

struct InterpolateOptions {
  Interpolation mode = Interpolation::bilinear;
  bool align_corners = false;  // corner pixels map to corner pixels, instead of edges to edges
  bool antialias = false;      // widens the filter when shrinking (Pillow's way)
};

// x (B, C, spatial…) → (B, C, size…), one axis after the other; `size` has one value per spatial
// dimension. Bicubic uses a = −0.75, with antialias −0.5. nearest takes neither option; antialias
// excludes align_corners. Differentiable any number of times. Conventions of PyTorch.
Tensor interpolate(const Tensor& x, const Shape& size, const InterpolateOptions& options = {});

// (B, C r², H, W) → (B, C, H r, W r) and back. Shi et al. 2016, "Real-Time Single Image and Video
// Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural Network".
Tensor pixel_shuffle(const Tensor& x, int64_t factor);
Tensor pixel_unshuffle(const Tensor& x, int64_t factor);

}  // namespace tessera
