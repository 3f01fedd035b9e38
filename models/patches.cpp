#include "tessera/models/patches.h"

#include <cmath>

#include "tessera/autograd/ops/matmul.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/nn/init.h"

namespace tessera {

PatchGrid grid_of(std::string_view user, const DataInfo& in, int64_t patch) {
  check(in.height > 0 && in.width > 0, "{}: wants images, but the data has {} x {} pixels", user,
        in.height, in.width);
  check(in.height % patch == 0 && in.width % patch == 0,
        "{}: patch {} does not divide an image of {} x {}; change model.patch or resize the images",
        user, patch, in.height, in.width);
  return {in.height / patch, in.width / patch};
}

Tensor to_patches(const Tensor& images, int64_t p) {
  const int64_t rows = images.size(2) / p, columns = images.size(3) / p;
  const Tensor x = reshape(images, {images.size(0), images.size(1), rows, p, columns, p});
  return reshape(permute(x, {0, 2, 4, 1, 3, 5}),
                 {images.size(0), rows * columns, images.size(1) * p * p});
}

Tensor from_patches(const Tensor& patches, const PatchGrid& g, int64_t channels) {
  const int64_t batch = patches.size(0);
  const auto p = std::llround(std::sqrt(static_cast<double>(patches.size(2) / channels)));
  check(patches.size(1) == g.count() && channels * p * p == patches.size(2),
        "from_patches: {} are not square patches of {} channels in a grid of {} x {}",
        patches.shape(), channels, g.rows, g.columns);
  const Tensor x = reshape(patches, {batch, g.rows, g.columns, channels, p, p});
  return reshape(permute(x, {0, 3, 1, 4, 2, 5}), {batch, channels, g.rows * p, g.columns * p});
}

PatchEmbedding::PatchEmbedding(int64_t channels, int64_t patch, int64_t width, bool norms)
    : weight(parameter(
          init::fan_in_uniform({width, channels, patch, patch}, channels * patch * patch))),
      bias(parameter(init::fan_in_uniform({width}, channels * patch * patch))) {
  if (!norms) return;
  norm_before.emplace(channels * patch * patch);
  norm_after.emplace(width);
}

Tensor PatchEmbedding::operator()(const Tensor& images) const {
  Tensor x = to_patches(images.to(weight.dtype()), weight.size(2));
  if (norm_before) x = (*norm_before)(x);
  x = linear(x, flatten(weight, 1), bias);
  return norm_after ? (*norm_after)(x) : x;
}

}  // namespace tessera
