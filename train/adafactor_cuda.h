// Adafactor's update of all parameters on a device: seven launches.
#pragma once

#include "tessera/train/optimizer_cuda.h"

namespace tessera {

struct FactoredRule {
  double eps1 = 0, eps2 = 0, clip = 1, penalty = 0;
  bool relative = true;
};

// Beside a ParameterTable whose slots are the row and the column means: shapes and sums.
class FactoredTable {
 public:
  FactoredTable(const ParameterTable& table, const std::vector<Parameter>& parameters);
  void update(const FactoredRule& rule, const Tensor& state) const;

 private:
  const ParameterTable& table_;
  int64_t count_;
  int64_t row_blocks_;
  int64_t column_blocks_;
  Tensor matrices_, rows_, columns_, sums_, scales_;
};

}  // namespace tessera
