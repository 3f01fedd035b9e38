// Images of one size held as bytes, split into train, validation and test.
#pragma once

#include "tessera/data/image_dataset.h"

namespace tessera {

// `images` (N, C, H, W) and `labels` (N), both u8.
struct StoredImages {
  Tensor images;
  Tensor labels;
  int64_t count() const { return labels.defined() ? labels.numel() : 0; }
};

// IDX, CIFAR: everything fits in memory as bytes. The last `validation` training images are the
// validation split; without a test set, test is validation, and without a validation part the other
// way round.
class StoredImageDataset : public ImageDataset {
 public:
  int64_t size(Split split) const override;

 protected:
  using ImageDataset::ImageDataset;
  // Checks that labels lie in [0, classes), names the classes by number when no names are given,
  // and that each split has images; `name` begins the errors.
  void set_images(const std::string& name, StoredImages train, StoredImages test,
                  int64_t validation, int64_t classes, std::vector<std::string> class_names);
  LabelledImage sample(Split split, int64_t index) const override;

 private:
  StoredImages train_, test_;
  int64_t validation_ = 0;
};

}  // namespace tessera
