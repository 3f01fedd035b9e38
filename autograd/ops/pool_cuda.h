// Max pooling on a CUDA device.
#pragma once

#include <vector>

#include "tessera/core/tensor.h"

namespace tessera {

// How the windows of one dimension lie. Window i sees i · stride − padding and kernel − 1 more
// elements, `dilation` apart; or, for stride 0, the elements ⌊i·in / out⌋ … ⌈(i + 1)·in / out⌉.
struct PoolAxis {
  int64_t in = 1;
  int64_t out = 1;
  int64_t kernel = 1;
  int64_t stride = 1;
  int64_t padding = 0;
  int64_t dilation = 1;
};

// x (B, C, in…) → y (B, C, out…) and index, i64 of y's shape; all dense. Halves too.
void max_pool_cuda(std::string_view op, const std::vector<PoolAxis>& axes, const Tensor& x,
                   const Tensor& y, const Tensor& index);
// gx (B, C, in…): every element adds gy of the windows that chose it, in their order.
void max_pool_gradient_cuda(std::string_view op, const std::vector<PoolAxis>& axes,
                            const Tensor& gy, const Tensor& index, const Tensor& gx);

}  // namespace tessera
