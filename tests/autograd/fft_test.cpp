#include "tessera/autograd/ops/fft.h"

#include <doctest/doctest.h>

#include <cmath>
#include <numbers>

#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/registry.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/fft.h"
#include "tessera/core/parallel.h"

using namespace tessera;

namespace {

// Σ_j x_j e^{−2πi jk/n} for k < bins, of complex pairs.
std::vector<double> naive_dft(const std::vector<double>& x, int64_t bins) {
  const auto n = static_cast<int64_t>(x.size()) / 2;
  std::vector<double> y;
  for (int64_t k = 0; k < bins; ++k) {
    double re = 0;
    double im = 0;
    for (int64_t j = 0; j < n; ++j) {
      const double angle =
          -2 * std::numbers::pi * static_cast<double>(j * k % n) / static_cast<double>(n);
      const auto at = static_cast<size_t>(2 * j);
      re += x[at] * std::cos(angle) - x[at + 1] * std::sin(angle);
      im += x[at] * std::sin(angle) + x[at + 1] * std::cos(angle);
    }
    y.push_back(re);
    y.push_back(im);
  }
  return y;
}

double distance(const std::vector<double>& a, const std::vector<double>& b) {
  REQUIRE(a.size() == b.size());
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(a[i] - b[i]));
  return worst;
}

std::vector<int64_t> lengths() {
  std::vector<int64_t> list;
  for (int64_t n = 1; n <= 40; ++n) list.push_back(n);
  for (int64_t n : {96, 97, 106, 143, 144, 1009}) list.push_back(n);
  return list;
}

}  // namespace

TEST_CASE("fft equals the sum that defines it, for every kind of length") {
  for (int64_t n : lengths()) {
    CAPTURE(n);
    const Tensor x = samples::normal({n, 2});
    const auto expected = naive_dft(x.to_vector<double>(), n);
    CHECK(distance(fft(x).to_vector<double>(), expected) < 1e-11 * static_cast<double>(n));
    CHECK(distance(ifft(fft(x)).to_vector<double>(), x.to_vector<double>()) < 1e-12);
    const Tensor single = fft(x.to(DType::f32));
    CHECK(distance(single.to_vector<double>(), expected) < 3e-6 * static_cast<double>(n));
  }
}

TEST_CASE("rfft is the first half of the transform of a real row, and irfft undoes it") {
  for (int64_t n : lengths()) {
    CAPTURE(n);
    const Tensor x = samples::normal({n});
    std::vector<double> pairs;
    for (double v : x.to_vector<double>()) {
      pairs.push_back(v);
      pairs.push_back(0);
    }
    const Tensor y = rfft(x);
    CHECK(distance(y.to_vector<double>(), naive_dft(pairs, n / 2 + 1)) <
          1e-11 * static_cast<double>(n));
    CHECK(distance(irfft(y, n).to_vector<double>(), x.to_vector<double>()) < 1e-12);
  }
}

TEST_CASE("transforms keep energy (Parseval)") {
  const Tensor x = samples::normal({3, 60, 2});
  const Tensor y = fft(x);
  CHECK(sum(y * y).item() == doctest::Approx(60 * sum(x * x).item()));
}

TEST_CASE("fft_convolve equals the causal sum") {
  const Tensor x = samples::normal({2, 11});
  const Tensor h = samples::normal({4}, 1);
  const auto a = x.to_vector<double>();
  const auto b = h.to_vector<double>();
  std::vector<double> expected;
  for (int64_t row = 0; row < 2; ++row) {
    for (int64_t i = 0; i < 11; ++i) {
      double total = 0;
      for (int64_t j = 0; j <= std::min<int64_t>(i, 3); ++j) {
        total += b[static_cast<size_t>(j)] * a[static_cast<size_t>(row * 11 + i - j)];
      }
      expected.push_back(total);
    }
  }
  CHECK(distance(fft_convolve(x, h).to_vector<double>(), expected) < 1e-12);
}

TEST_CASE("a row is transformed to the same bits alone, among others, and on any thread count") {
  const Tensor x = samples::normal({64, 360}).to(DType::f32);
  const int before = num_threads();
  set_num_threads(1);
  const auto one = rfft(x).to_vector<float>();
  set_num_threads(2);
  const auto two = rfft(x).to_vector<float>();
  set_num_threads(before);
  CHECK(one == two);
  const Tensor first(x.storage(), {360}, {1}, 0, DType::f32);
  const auto alone = rfft(first).to_vector<float>();
  CHECK(std::equal(alone.begin(), alone.end(), one.begin()));
}

TEST_CASE("fast lengths are even and have no prime factor above 5") {
  CHECK(kernels::fast_fft_length(1) == 2);
  CHECK(kernels::fast_fft_length(7) == 8);
  CHECK(kernels::fast_fft_length(97) == 100);
  CHECK(kernels::fast_fft_length(121) == 128);
}
