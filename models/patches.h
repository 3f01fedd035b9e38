// Images as grids of patches.
#pragma once

#include "tessera/data/dataset.h"
#include "tessera/nn/norm.h"

namespace tessera {

struct PatchGrid {
  int64_t rows = 0, columns = 0;
  int64_t count() const { return rows * columns; }
};
// The patches of p × p pixels of the data's images; throws, beginning with `user`, when there are
// no images or p does not divide them.
PatchGrid grid_of(std::string_view user, const DataInfo& input, int64_t patch);

// (B, C, H, W) → (B, H/p · W/p, C p p): patches in rows, their vectors ordered (channel, row,
// column); and back. Differentiable.
Tensor to_patches(const Tensor& images, int64_t patch);
Tensor from_patches(const Tensor& patches, const PatchGrid& grid, int64_t channels);

// Patches become tokens: a convolution of kernel and stride p, done as one product. With norms,
// layer norms stand before and after it.
struct PatchEmbedding : Module {
  std::optional<LayerNorm> norm_before, norm_after;
  Tensor weight, bias;  // (D, C, p, p), (D)

  PatchEmbedding(int64_t channels, int64_t patch, int64_t width, bool norms = false);
  Tensor operator()(const Tensor& images) const;  // (B, C, H, W) → (B, H/p · W/p, D)
  TESSERA_MEMBERS(norm_before, weight, bias, norm_after)
};

}  // namespace tessera
