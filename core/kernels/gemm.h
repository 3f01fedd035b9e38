// Matrix products. On the CPU: one-thread CBLAS calls inside our own blocks of rows or columns,
// whose sizes depend on the shape alone, so results are the same bits for any number of threads. On
// CUDA: cuBLASLt (see gemm_cuda.h).
#pragma once

#include "tessera/core/tensor.h"

namespace tessera::kernels {

// C = alpha · A B + beta · C for matrices or batches of them. A (…, M, K), B (…, K, N), C (…, M,
// N), f32 or f64 (on CUDA the halves too, which may give an f32 C);
// the batch dimensions of A and B broadcast to those of C. Any strides: a matrix
// with unit stride in either of its two dimensions is used as it is, others are copied first. C
// must have unit stride in its last dimension.
void gemm(const Tensor& c, const Tensor& a, const Tensor& b, double alpha = 1, double beta = 0);

// Whether f32 products on CUDA may round their factors to tf32 (10 bits of mantissa); off at first.
void set_tf32(bool on);
bool tf32();

// Floating-point operations done by gemm() since the start (2 M N K each).
int64_t gemm_flops();

}  // namespace tessera::kernels
