// Sparse linear maps along one dimension. Resizing, average pooling and padding by reflection are
// such maps, one per axis: each is a table of weights, and forward and adjoint come from the same
// table.
#pragma once

#include <memory>
#include <vector>

#include "tessera/core/tensor.h"

namespace tessera {

// y_i = Σ weight[e] · x[index[e]] over the entries first[i] ≤ e < first[i + 1].
struct AxisTable {
  int64_t in = 0;
  std::vector<int64_t> first = {0};
  std::vector<int64_t> index;
  std::vector<double> weight;

  int64_t out() const { return static_cast<int64_t>(first.size()) - 1; }
  void add(int64_t at, double value) {  // to the row that is being written
    index.push_back(at);
    weight.push_back(value);
  }
  void end_row() { first.push_back(static_cast<int64_t>(index.size())); }
  AxisTable transposed() const;
};

// Applies the table to every line of x along dim, whose size must be table.in. f32 and f64,
// on CUDA the halves too; differentiable any number of times. `op` begins errors.
Tensor axis_map(const Tensor& x, int64_t dim, AxisTable table, std::string_view op = "axis_map");

}  // namespace tessera
