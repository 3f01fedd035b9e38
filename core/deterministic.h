// Whether a CUDA device must give the same bits on every run; it must at first. Given up, a race
// chooses between products (core/kernels/gemm_cuda.h), and the backward of attention may add in any
// order (attention/engines/hopper_fused.h). The CPU always gives the same bits.
#pragma once

namespace tessera {

void set_deterministic(bool on);
bool deterministic();

}  // namespace tessera
