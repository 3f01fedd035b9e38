// What a forward pass costs, counted while it runs.
#pragma once

#include "tessera/train/task.h"

namespace tessera {

struct Cost {
  int64_t units = 0;          // tokens or images that went in
  int64_t multiply_adds = 0;  // of products and convolutions, and of attention engines on the CPU
  int64_t score_entries = 0;  // see attention/engines/engine.h
  std::vector<std::pair<std::string, Shape>> inputs, outputs;
};

// One forward pass of the task's loss in training mode, without gradients. The model's state may
// move (statistics that learn in a forward pass): give it a model that is not needed any more.
Cost forward_cost(Task& task, Model& model, const Batch& batch);

// The first `count` elements of the training split.
Batch first_batch(const Dataset& data, int64_t count);

}  // namespace tessera
