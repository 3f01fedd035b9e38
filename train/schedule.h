// Learning-rate schedules: a factor on the optimizer's rate. Configs name them:
// "schedule": {"type": "cosine", "warmup": 100}.
#pragma once

#include <memory>

#include "tessera/config/registry.h"

namespace tessera {

class Schedule {
 public:
  static constexpr const char* kKind = "schedule";
  using Build = std::unique_ptr<Schedule>(int64_t steps);
  virtual ~Schedule() = default;
  virtual double factor(int64_t step) const = 0;  // of update `step`, counted from 0
};

}  // namespace tessera
