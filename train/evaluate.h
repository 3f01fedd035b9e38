// Measuring a model on a split.
#pragma once

#include <map>
#include <string>

#include "tessera/train/task.h"

namespace tessera {

struct EvaluateOptions {
  int64_t batch = 32;
  int64_t batches = 0;  // 0: the whole split, the last batch may be short
  uint64_t seed = 1;
};

// Metrics of the task over a split in order, in evaluation mode (the mode is put back). An endless
// generated split needs a number of batches.
std::map<std::string, double> evaluate(Model& model, Task& task, const Dataset& data, Split split,
                                       const EvaluateOptions& options);

}  // namespace tessera
