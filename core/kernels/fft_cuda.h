// Fourier transforms of rows on a CUDA device, through cuFFT. Dense tensors of one floating dtype;
// halves are transformed in f32. The contracts are those of fft.h, rows = all but the last
// dimension of the real or the last two of the complex tensor.
#pragma once

#include "tessera/core/tensor.h"

namespace tessera::kernels {

void fft_cuda(const Tensor& x, const Tensor& y, int64_t n, bool inverse, double scale);
void rfft_cuda(const Tensor& x, const Tensor& y, int64_t n, double ends, double middle);
void irfft_cuda(const Tensor& y, const Tensor& x, int64_t n, double ends, double middle);

// y = a b or a b̄ for complex numbers; the tensors are their real parts, of one (broadcast) shape,
// and the imaginary part of each stands right after it in memory.
void complex_mul_cuda(const Tensor& y, const Tensor& a, const Tensor& b, bool conjugate_b);

}  // namespace tessera::kernels
