#include "tessera/data/image_dataset.h"

#include <algorithm>

#include "tessera/core/create.h"

namespace tessera {

namespace {

constexpr uint64_t kTransformStream = 1, kMixStream = 2;

}  // namespace

void ImageDataset::set_info(DataInfo raw) {
  info_ = std::move(raw);
  const Tensor image = transforms_(zeros({info_.channels, info_.height, info_.width}), nullptr);
  info_.channels = image.size(0);
  info_.height = image.size(1);
  info_.width = image.size(2);
}

Batch ImageDataset::get(Split split, std::span<const int64_t> indices, uint64_t seed) const {
  check_indices(indices, size(split), "images");
  const auto count = static_cast<int64_t>(indices.size());
  const Shape one{info_.channels, info_.height, info_.width};
  const Tensor images = empty({count, one[0], one[1], one[2]});
  const Tensor labels = empty({count}, {DType::i64, {}});
  float* to = images.data<float>();
  for (size_t i = 0; i < indices.size(); ++i) {
    const LabelledImage raw = sample(split, indices[i]);
    Generator random(mix(seed, static_cast<uint64_t>(indices[i])), kTransformStream);
    const Tensor x = transforms_(raw.image, split == Split::train ? &random : nullptr);
    check(x.shape() == one,
          "images: the transforms make {} of image {}, want {}; add a resizing "
          "transform",
          x.shape(), indices[i], one);
    to = std::copy_n(x.data<float>(), x.numel(), to);
    labels.data<int64_t>()[i] = raw.label;
  }
  Batch batch{{"images", images}, {"labels", labels}};
  if (split == Split::train && count > 0 && (mix_.active() || mix_.label_smoothing > 0)) {
    Generator random(mix(seed, static_cast<uint64_t>(indices[0])), kMixStream);
    mix_batch(batch, mix_, info_.classes, random);
  }
  return batch;
}

}  // namespace tessera
