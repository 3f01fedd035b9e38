// What all labelled image datasets share: transforms, stacking, mixing.
#pragma once

#include <vector>

#include "tessera/data/dataset.h"
#include "tessera/data/drawing.h"
#include "tessera/data/mixup.h"
#include "tessera/data/transform.h"

namespace tessera {

// The part of an image dataset's config that is the same for all; a config derives from it and
// lists it with image_fields(f).
struct ImageConfig {
  std::vector<Choice<Transform>> transforms{Choice<Transform>("normalize")};
  MixConfig mix;

  void image_fields(Fields& f) {
    f("transforms", transforms, "applied in order; evaluation leaves out the random ones");
    f("mix", mix, "mixup and cutmix of training batches");
  }
};

// A dataset gives one raw image and its label; this base transforms, stacks and mixes. "images"
// (B, C, H, W) f32, "labels" (B) i64 and, for training with mixing or label smoothing,
// "soft_targets" (B, classes).
class ImageDataset : public Dataset {
 public:
  DataInfo info() const override { return info_; }
  Batch get(Split split, std::span<const int64_t> indices, uint64_t seed) const override;
  const TransformList* transforms() const override { return &transforms_; }

 protected:
  explicit ImageDataset(const ImageConfig& config)
      : transforms_(config.transforms), mix_(config.mix) {}

  // A constructor ends with it: `raw` describes the images before the transforms, whose effect on
  // the size is found by applying the transforms of evaluation to an empty image.
  void set_info(DataInfo raw);
  virtual LabelledImage sample(Split split, int64_t index) const = 0;

 private:
  TransformList transforms_;
  MixConfig mix_;
  DataInfo info_;
};

}  // namespace tessera
