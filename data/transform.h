// Image transforms: a list in the config that training and evaluation share.
#pragma once

#include <memory>
#include <vector>

#include "tessera/config/registry.h"
#include "tessera/core/random.h"
#include "tessera/data/dataset.h"

namespace tessera {

struct Transform {
  static constexpr const char* kKind = "transform";
  using Build = std::unique_ptr<Transform>();

  virtual ~Transform() = default;
  // A new image (C, H, W) from one. `random` is null in evaluation, where a transform that stays
  // (see train_only) takes its fixed form: random_resized_crop the centre, say.
  virtual Tensor operator()(const Tensor& image, Generator* random) const = 0;
  // Whether evaluation leaves it out.
  virtual bool train_only() const { return false; }
};

// The transforms of a config in order.
struct TransformList {
  TransformList() = default;
  explicit TransformList(std::vector<Choice<Transform>> choices);

  // All of them for training (with `random`), those that are not train_only in evaluation (null).
  Tensor operator()(const Tensor& image, Generator* random) const;

  std::vector<Choice<Transform>> choices;
  std::vector<std::unique_ptr<Transform>> steps;
};

// What a trained classifier wants of any image: channels as in `info` (grey or RGB), the transforms
// of evaluation and, where these leave another size, a resize of the shorter side and a centre crop
// to (info.height, info.width) before them. Gives (C, H, W).
Tensor preprocess(const Tensor& image, const DataInfo& info, const TransformList& transforms);

}  // namespace tessera
