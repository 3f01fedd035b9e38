// Fourier transforms along the last dimension, of any length; complex numbers are pairs (re, im) in
// a last dimension of size 2. f32 and f64, on CUDA the halves too (transformed in f32);
// differentiable any number of times.
// F_k = Σ_j x_j e^{−2πi jk/n}; the inverses divide by n (NumPy's conventions).
#pragma once

#include "tessera/core/tensor.h"

namespace tessera {

// x (…, m) real → the bins 0 … n/2 (…, n/2 + 1, 2). x is cropped or padded with zeros to n; n = 0:
// its own length.
Tensor rfft(const Tensor& x, int64_t n = 0);

// y (…, bins, 2) → real (…, n) whose rfft it is; the imaginary parts of bins 0 and n/2 do not
// count. y is cropped or padded with zeros to n/2 + 1 bins; n = 0: 2 (bins − 1).
Tensor irfft(const Tensor& y, int64_t n = 0);

Tensor fft(const Tensor& x);   // (…, n, 2) → (…, n, 2)
Tensor ifft(const Tensor& x);  // its inverse

// a · b (or a · b̄) of complex pairs (…, 2); the dimensions before the last broadcast.
Tensor complex_mul(const Tensor& a, const Tensor& b, bool conjugate_b = false);

// Causal convolution y_i = Σ_{j ≤ i} h_j x_{i−j} along the last dimension, x (…, n), h (…, m), the
// dimensions before the last broadcast → (…, n); by transforms of a length ≥ n + m − 1.
Tensor fft_convolve(const Tensor& x, const Tensor& h);

}  // namespace tessera
