#include "tessera/data/stored_images.h"

#include <algorithm>

#include "tessera/core/create.h"

namespace tessera {

namespace {

void check_labels(const std::string& name, const StoredImages& part, int64_t classes) {
  const uint8_t* labels = part.count() > 0 ? part.labels.data<uint8_t>() : nullptr;
  for (int64_t i = 0; i < part.count(); ++i) {
    check(labels[i] < classes, "{}: label {} of image {} is outside [0, {})", name, labels[i], i,
          classes);
  }
}

}  // namespace

void StoredImageDataset::set_images(const std::string& name, StoredImages train, StoredImages test,
                                    int64_t validation, int64_t classes,
                                    std::vector<std::string> class_names) {
  check(validation >= 0 && validation < train.count(),
        "{}: validation {} must leave some of the {} training images", name, validation,
        train.count());
  check(validation > 0 || test.count() > 0,
        "{}: nothing to evaluate on; give a test set or a validation count", name);
  check_labels(name, train, classes);
  check_labels(name, test, classes);
  if (test.count() > 0) {
    check(test.images.size(1) == train.images.size(1) &&
              test.images.size(2) == train.images.size(2) &&
              test.images.size(3) == train.images.size(3),
          "{}: test images {} differ in size from training images {}", name, test.images.shape(),
          train.images.shape());
  }
  for (int64_t i = static_cast<int64_t>(class_names.size()); i < classes; ++i) {
    class_names.push_back(std::to_string(i));
  }
  train_ = std::move(train);
  test_ = std::move(test);
  validation_ = validation;
  DataInfo info;
  info.channels = train_.images.size(1);
  info.height = train_.images.size(2);
  info.width = train_.images.size(3);
  info.classes = classes;
  info.class_names = std::move(class_names);
  set_info(std::move(info));
}

int64_t StoredImageDataset::size(Split split) const {
  if (split == Split::train) return train_.count() - validation_;
  if (split == Split::validation) return validation_ > 0 ? validation_ : test_.count();
  return test_.count() > 0 ? test_.count() : validation_;
}

LabelledImage StoredImageDataset::sample(Split split, int64_t index) const {
  const bool held_out = split == Split::validation ? validation_ > 0 : test_.count() == 0;
  const bool from_train = split == Split::train || held_out;
  const StoredImages& part = from_train ? train_ : test_;
  const int64_t at = index + (from_train && split != Split::train ? size(Split::train) : 0);
  const Tensor image = empty({part.images.size(1), part.images.size(2), part.images.size(3)});
  const uint8_t* bytes = part.images.data<uint8_t>() + at * image.numel();
  std::transform(bytes, bytes + image.numel(), image.data<float>(),
                 [](uint8_t b) { return static_cast<float>(b) * (1.0f / 255); });
  return {image, part.labels.data<uint8_t>()[at]};
}

}  // namespace tessera
