// The fills of core/random.h for tensors on a device: the numbers of the CPU.
#pragma once

#include "tessera/core/random.h"

namespace tessera::kernels {

void uniform_cuda(const Tensor& x, double low, double high, RandomKey key);
void normal_cuda(const Tensor& x, double mean, double stddev, RandomKey key);
// sign · quantile(from + (to − from) u), scaled, shifted and clamped to [low, high].
struct TruncatedNormal {
  double mean, stddev, low, high, sign, from, to;
};
void truncated_normal_cuda(const Tensor& x, const TruncatedNormal& shape, RandomKey key);
void bernoulli_cuda(const Tensor& x, uint64_t threshold, RandomKey key);
void set_captured_step_cuda(Device device, uint64_t step);

}  // namespace tessera::kernels
