// Sparse maps along a dimension on a CUDA device.
#pragma once

#include "tessera/autograd/ops/axis_map.h"

namespace tessera {

// x (outer, table.in, inner) → y (outer, table.out(), inner), both dense, of one floating dtype;
// halves are added in f32. The table's copy on the device is made at its first use and kept for the
// life of the program: a recorded graph may read it.
void axis_map_cuda(std::string_view op, const AxisTable& table, const Tensor& x, const Tensor& y,
                   int64_t outer, int64_t inner);

}  // namespace tessera
