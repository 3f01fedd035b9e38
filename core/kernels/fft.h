// Discrete Fourier transforms of rows, of any length, in f32 and f64: mixed radix (Stockham's
// self-sorting form) for lengths whose prime factors are at most 13, Bluestein's chirp convolution
// for the others. Every row is transformed alone, so its bits do not depend on the others.
//
// F_k = Σ_j x_j e^{−2πi jk/n}. Nothing is normalised here. Complex numbers are pairs (re, im).
#pragma once

#include <cstdint>

namespace tessera::kernels {

// (rows, n) pairs → (rows, n) pairs, times scale; the inverse has e^{+2πi jk/n}.
template <class T>
void fft_rows(const T* x, T* y, int64_t rows, int64_t n, bool inverse, double scale);

// The bins 0 … n/2 of a real row: y_k = s_k F_k with s = `ends` for the bins that are their own
// mirror image (0, and n/2 when n is even) and `middle` for the others.
// (rows, n) → (rows, n/2 + 1) pairs.
template <class T>
void rfft_rows(const T* x, T* y, int64_t rows, int64_t n, double ends, double middle);

// x_j = Σ_k c_k s_k Re(y_k e^{2πi jk/n}) with c = 1 at the ends and 2 in the middle: the sum over
// all n bins of a spectrum with y_{n−k} = ȳ_k. (rows, n/2 + 1) pairs → (rows, n).
template <class T>
void irfft_rows(const T* y, T* x, int64_t rows, int64_t n, double ends, double middle);

// The smallest even length from n on without prime factors above 5.
int64_t fast_fft_length(int64_t n);

}  // namespace tessera::kernels
