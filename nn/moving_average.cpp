#include "tessera/nn/moving_average.h"

#include <cmath>

#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/einsum.h"
#include "tessera/autograd/ops/elementwise.h"
#include "tessera/autograd/ops/fft.h"
#include "tessera/autograd/ops/indexing.h"
#include "tessera/autograd/ops/pad.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/fft.h"
#include "tessera/nn/check.h"
#include "tessera/nn/init.h"

namespace tessera {
namespace {

constexpr int64_t kChunk = 64;     // tokens at once in one direction
constexpr double kStd = 0.2;       // of the damping's parameters
constexpr double kBetaStd = 0.02;  // around 1, −1, 1, …

Tensor full_precision(const Tensor& x) {
  return is_half(x.dtype()) ? x.to(DType::f32) : x;
}

Tensor alternating(int64_t rows, int64_t dims) {
  const Tensor x = init::truncated_normal({rows, dims}, kBetaStd, 2 * kBetaStd);
  float* data = x.data<float>();
  for (int64_t i = 0; i < rows * dims; ++i) data[i] += i % dims % 2 == 0 ? 1.0F : -1.0F;
  return x;
}

// q^l for l = first … first + count − 1, log q (D, N) → (D, N, count).
Tensor powers(const Tensor& log_decay, int64_t first, int64_t count) {
  const Tensor l = arange(static_cast<double>(first), static_cast<double>(first + count), 1,
                          {log_decay.dtype(), log_decay.device()});
  return exp(unsqueeze(log_decay, -1) * l);
}

// κ (D, T) → (D, T, T): κ[t − s] at (t, s), 0 above the diagonal.
Tensor toeplitz(const Tensor& kernel) {
  const int64_t n = kernel.size(1);
  const Tensor at = arange(0, static_cast<double>(n), 1, {DType::i64, kernel.device()});
  const Tensor lag = unsqueeze(at, 1) - unsqueeze(at, 0) + static_cast<double>(n - 1);
  return reshape(index_select(pad(kernel, {n - 1, 0}), 1, reshape(lag, {n * n})),
                 {kernel.size(0), n, n});
}

// Σ_{s ≤ t} forward[t − s] x_s + Σ_{s ≥ t} backward[s − t] x_s along the last dimension, from one
// transform of x: a backward kernel is the conjugate spectrum.
Tensor convolve_both(const Tensor& x, const Tensor& forward, const Tensor& backward) {
  const int64_t n = x.size(-1);
  const int64_t length = kernels::fast_fft_length(2 * n);
  const Tensor spectrum = rfft(x, length);
  const Tensor product = complex_mul(spectrum, rfft(forward, length)) +
                         complex_mul(spectrum, rfft(backward, length), true);
  return slice(irfft(product, length), -1, 0, n);
}

// m without its direct part for chunks of `size` tokens, x (B, C · size, D): inside of a chunk a
// Toeplitz matrix of κ, before it what the state makes of the past.
Tensor chunked(const DampedEma::Coefficients& c, const Tensor& x, int64_t size, Tensor& state) {
  const int64_t batch = x.size(0), chunks = x.size(1) / size, width = x.size(2);
  const Tensor parts = reshape(x, {batch, chunks, size, width});
  const Tensor decay = powers(c.log_decay, 0, size + 1);  // (D, N, size + 1)
  const Tensor kernel = einsum("d n, d n l -> d l", c.input * c.output, slice(decay, 2, 0, size));
  Tensor m = einsum("d t s, b c s d -> b c t d", toeplitz(kernel), parts);
  const Tensor ends = flip(slice(decay, 2, 0, size), {-1}) * unsqueeze(c.input, -1);
  const TensorList added = chunk(einsum("d n s, b c s d -> c b d n", ends, parts), chunks, 0);
  TensorList before;
  for (const Tensor& one : added) {
    before.push_back(state.defined() ? state : zeros_like(squeeze(one, 0)));
    state = squeeze(one, 0) + before.back() * select(decay, 2, size);
  }
  const Tensor starts = slice(decay, 2, 1) * unsqueeze(c.output, -1);
  m = m + einsum("d n t, c b d n -> b c t d", starts, stack(before, 0));
  return reshape(m, x.shape());
}

// The same for any number of tokens.
Tensor recurrent(const DampedEma::Coefficients& c, const Tensor& x, Tensor& state) {
  const int64_t length = x.size(1), whole = length / kChunk * kChunk;
  TensorList parts;
  if (whole > 0) parts.push_back(chunked(c, slice(x, 1, 0, whole), kChunk, state));
  if (length > whole) parts.push_back(chunked(c, slice(x, 1, whole), length - whole, state));
  return parts.size() == 1 ? parts[0] : concat(parts, 1);
}

const RegisterLayer row{
    {"damped_ema", "h ← q h + p β x, m = γ·h / √N + ω x", "Ma et al. 2022, Mega",
     [] { return std::make_unique<DampedEma>(3, 2, true); },
     [](Module& m, const TensorList& in) { return TensorList{static_cast<DampedEma&>(m)(in[0])}; },
     [] {
       return TensorList{samples::normal({2, 5, 3})};
     }}};

}  // namespace

DampedEma::DampedEma(int64_t width, int64_t dims, bool bidirectional, int64_t truncation)
    : bidirectional_(bidirectional), truncation_(truncation) {
  const int64_t rows = bidirectional ? 2 * width : width;
  delta = parameter(init::truncated_normal({rows, dims}, kStd, 2 * kStd));
  alpha = parameter(init::truncated_normal({rows, dims}, kStd, 2 * kStd));
  beta = parameter(alternating(rows, dims));
  gamma = parameter(init::truncated_normal({rows, dims}, 1));
  omega = parameter(init::truncated_normal({width}, 1));
}

DampedEma::Coefficients DampedEma::coefficients() const {
  const Tensor p = sigmoid(full_precision(delta));
  return {p * full_precision(beta), log1p(neg(p * sigmoid(full_precision(alpha)))),
          full_precision(gamma) / std::sqrt(static_cast<double>(gamma.size(1)))};
}

Tensor DampedEma::convolved(const Tensor& x) const {
  const int64_t length = x.size(1), width = x.size(2);
  const Coefficients c = coefficients();
  const Tensor taps =
      einsum("d n, d n l -> d l", c.input * c.output,
             powers(c.log_decay, 0, truncation_ > 0 ? std::min(truncation_, length) : length));
  const Tensor rows = transpose(x, 1, 2);
  const Tensor m = bidirectional_
                       ? convolve_both(rows, slice(taps, 0, 0, width), slice(taps, 0, width))
                       : fft_convolve(rows, taps);
  return transpose(m, 1, 2);
}

Tensor DampedEma::operator()(const Tensor& x, const Tensor& valid) const {
  if (x.size(1) == 0) return x * omega;
  const Tensor seen = valid.defined() ? x * unsqueeze(valid.to(x.dtype()), -1) : x;
  Tensor state;
  const Tensor m = bidirectional_ || truncation_ > 0
                       ? convolved(full_precision(seen))
                       : recurrent(coefficients(), full_precision(seen), state);
  return m.to(x.dtype()) + x * omega;
}

Tensor DampedEma::step(const Tensor& x, Tensor& state) const {
  check(!bidirectional_ && truncation_ == 0,
        "damped_ema: steps want one direction and no truncation");
  return recurrent(coefficients(), full_precision(x), state).to(x.dtype()) + x * omega;
}

}  // namespace tessera
