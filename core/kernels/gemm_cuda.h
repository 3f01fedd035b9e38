// gemm() on a CUDA device, through cuBLASLt, and what it can do with a result on its way out.
#pragma once

#include "tessera/core/tensor.h"

namespace tessera::kernels {

// C (M, N) = epilogue(alpha · A B + beta · C). Undefined tensors are absent; each is dense.
struct Epilogue {
  // (N), added to every row.
  Tensor bias = {};
  // (M, N), written: what comes before a GELU (tanh form) whose value is the result.
  Tensor gelu_input = {};
  // (M, N), read: the result is multiplied by the derivative of that GELU there.
  Tensor gelu_at = {};
  // Written: with gelu_at, (N), the sums of the result's columns; else (M), the sums of A's rows
  // (a bias gradient beside a weight gradient, A being the transposed gradient). C's dtype. On
  // Hopper a kernel of its own is faster: the ops here do not ask for them, a benchmark does.
  Tensor sums = {};
};

// f32 (in tf32 when tf32() is on), f64, bf16, f16 with f32 sums; A and B of one dtype, C of the
// same or, for halves, f32. Strides as for gemm(). Repeats its bits for equal shapes, strides and
// alignment.
void gemm_cuda(const Tensor& c, const Tensor& a, const Tensor& b, double alpha, double beta,
               const Epilogue& epilogue = {});
// Whether there is a kernel that does all of this at once for these matrices (not every dtype and
// width has one). Without an epilogue there always is.
bool gemm_fuses(const Tensor& c, const Tensor& a, const Tensor& b, double beta,
                const Epilogue& epilogue);

}  // namespace tessera::kernels
