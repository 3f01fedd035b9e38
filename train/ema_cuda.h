// The average of weights on a device, in one launch.
#pragma once

#include "tessera/train/parameter.h"

namespace tessera {

class EmaTable {
 public:
  EmaTable(const TensorList& averages, const std::vector<Parameter>& parameters);
  void update(float keep) const;  // a ← keep · a + (1 − keep) · w

 private:
  Device device_;
  Tensor entries_;
  Tensor ranges_;
  int64_t pieces_;
};

}  // namespace tessera
