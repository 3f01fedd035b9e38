// What a model hands to its layers beside their input.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "tessera/core/tensor.h"

namespace tessera {

// What layers give beside their output: losses that join the task's, and figures to watch.
struct Auxiliary {
  TensorList losses;  // scalars with gradient, weighted by who adds them
  // By name, a scalar or a vector of each layer that has it, in the order of layers. Evaluation
  // reports averages over batches: "name" (over layers), "name.LAYER", "name.LAYER.ENTRY".
  std::map<std::string, TensorList> figures;
};

// Handed down by value. A layer that depends on `step` beyond what ops read on the device says that
// it is not capturable (nn/module.h).
struct LayerContext {
  int64_t step = 0;                // of training, from 0
  int64_t steps = 0;               // how many there will be; 0 outside of training
  Tensor tokens = {};              // i64 (B, N): ids of what the model reads, where it reads ids
  Auxiliary* auxiliary = nullptr;  // null: nobody collects

  void add_loss(const Tensor& loss) const {
    if (auxiliary != nullptr) auxiliary->losses.push_back(loss);
  }
  // Whether figures are asked for: computing them may cost something.
  bool watched() const { return auxiliary != nullptr; }
  void add_figure(const std::string& name, const Tensor& value) const {
    if (auxiliary != nullptr) auxiliary->figures[name].push_back(value);
  }
};

}  // namespace tessera
