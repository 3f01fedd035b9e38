// Rows of scores on the CPU: maximum, sum of exponentials and logsumexp, vectorised with a fixed
// order of additions. Shared by softmax and the cross-entropies.
#pragma once

#include <cmath>
#include <limits>

#include "tessera/core/math.h"
#include "tessera/core/parallel.h"

namespace tessera::detail {

// fn(row) in parallel, in pieces that depend on the sizes alone.
template <class Fn>
void parallel_rows(int64_t rows, int64_t size, const Fn& fn) {
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, size));
  parallel_for((rows + grain - 1) / grain, rows * size, [&](int64_t piece) {
    const int64_t last = std::min(rows, (piece + 1) * grain);
    for (int64_t row = piece * grain; row < last; ++row) fn(row);
  });
}

// What is subtracted before exponentials: the maximum, or 0 for a row of −∞, whose exponentials
// then are zeros instead of NaN.
template <class T>
T row_shift(const T* x, int64_t n) {
  constexpr T lowest = -std::numeric_limits<T>::infinity();
  T top = lowest;
#pragma omp simd reduction(max : top)
  for (int64_t i = 0; i < n; ++i) top = x[i] > top ? x[i] : top;
  return top == lowest ? T(0) : top;
}

// y = exp(x − shift); returns the sum, of blocks in T added in f64.
template <class T>
double row_exponentials(const T* x, T* y, int64_t n, T shift) {
  constexpr int64_t kBlock = 1024;
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t end = std::min(n, begin + kBlock);
    T sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = begin; i < end; ++i) {
      const T e = math::exp(x[i] - shift);
      y[i] = e;
      sum += e;
    }
    total += static_cast<double>(sum);
  }
  return total;
}

// log Σ exp(x); −∞ for a row of −∞.
template <class T>
double row_logsumexp(const T* x, int64_t n) {
  constexpr int64_t kBlock = 1024;
  const T shift = row_shift(x, n);
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t end = std::min(n, begin + kBlock);
    T sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = begin; i < end; ++i) sum += math::exp(x[i] - shift);
    total += static_cast<double>(sum);
  }
  return static_cast<double>(shift) + std::log(total);
}

// The loss of one row against a class, −Σ q log p with q = (1 − ε) 1[target] + ε/n; lse is the
// row's logsumexp. A target at −∞ costs +∞, in a row of −∞ too.
template <class T>
double row_cross_entropy(const T* x, int64_t n, int64_t target, double epsilon, double lse) {
  double loss = (1 - epsilon) * (lse - static_cast<double>(x[target]));
  if (epsilon > 0) {
    double total = 0;
#pragma omp simd reduction(+ : total)
    for (int64_t i = 0; i < n; ++i) total += static_cast<double>(x[i]);
    loss += epsilon * (lse - total / static_cast<double>(n));
  }
  return std::isnan(loss) && x[target] == -std::numeric_limits<T>::infinity()
             ? std::numeric_limits<double>::infinity()
             : loss;
}

// Its gradient, g = scale (p − q); g may be x. The target's entry p − 1 comes from expm1: no
// cancellation.
template <class T>
void row_cross_entropy_gradient(const T* x, T* g, int64_t n, int64_t target, double epsilon,
                                double lse, double scale) {
  const T shift = static_cast<T>(lse);
  const T factor = static_cast<T>(scale);
  const T uniform = static_cast<T>(epsilon / static_cast<double>(n));
  const T at_target = factor * (math::expm1(x[target] - shift) + static_cast<T>(epsilon) - uniform);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) g[i] = factor * (math::exp(x[i] - shift) - uniform);
  g[target] = at_target;
}

}  // namespace tessera::detail
