// The kernels of rotary.cpp on CUDA.
#pragma once

#include <vector>

#include "tessera/core/tensor.h"

namespace tessera {

// cos and sin of position · frequency: table (…, 2, F) for dense positions i64 (…).
void turns_cuda(const Tensor& table, const Tensor& positions,
                const std::vector<double>& frequencies);

// y = x (…, T, D), whose pairs turn by sign · position · frequency; y dense, x with a dense last
// dimension, positions i64 broadcast to (…, T). Channels beyond 2 F are copied.
void rotary_cuda(const Tensor& y, const Tensor& x, const Tensor& positions,
                 const std::vector<double>& frequencies, bool interleaved, int sign);

}  // namespace tessera
