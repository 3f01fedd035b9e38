// Losses by name, for tasks and for configs: "loss": {"type": "cross_entropy", "label_smoothing":
// 0.1}.
#pragma once

#include <memory>

#include "tessera/config/registry.h"
#include "tessera/core/tensor.h"

namespace tessera {

class Loss {
 public:
  static constexpr const char* kKind = "loss";
  using Build = std::unique_ptr<Loss>();
  virtual ~Loss() = default;
  // A scalar: the mean over what is scored. Shapes as the ops in autograd/ops/loss.h want them.
  virtual Tensor operator()(const Tensor& prediction, const Tensor& target) const = 0;
};

}  // namespace tessera
