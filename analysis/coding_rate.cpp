#include "tessera/analysis/coding_rate.h"

#include <cmath>
#include <vector>

#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/elementwise.h"
#include "tessera/autograd/ops/matmul.h"
#include "tessera/autograd/ops/reduce.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/tape.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"

namespace tessera {
namespace {

using Matrix = std::vector<double>;

Tensor on_host(const Tensor& x) {
  return kernels::cast(kernels::to_device(kernels::contiguous(x.detach()), {}), DType::f64);
}

double& entry(Matrix& a, int64_t n, int64_t i, int64_t j) {
  return a[static_cast<size_t>(i * n + j)];
}

// The lower triangle L of A = L Lᵀ takes A's place.
void cholesky(Matrix& a, int64_t n) {
  for (int64_t j = 0; j < n; ++j) {
    for (int64_t k = 0; k < j; ++k) entry(a, n, j, j) -= entry(a, n, j, k) * entry(a, n, j, k);
    const double pivot = entry(a, n, j, j);
    check(pivot > 0, "coding_rate: pivot {} of row {} is {}; the tokens are not finite", j, j,
          pivot);
    entry(a, n, j, j) = std::sqrt(pivot);
    for (int64_t i = j + 1; i < n; ++i) {
      for (int64_t k = 0; k < j; ++k) entry(a, n, i, j) -= entry(a, n, i, k) * entry(a, n, j, k);
      entry(a, n, i, j) /= entry(a, n, j, j);
    }
  }
}

// b ← A⁻¹ b for the factor L of A.
void solve(Matrix& l, int64_t n, double* b) {
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t k = 0; k < i; ++k) b[i] -= entry(l, n, i, k) * b[k];
    b[i] /= entry(l, n, i, i);
  }
  for (int64_t i = n - 1; i >= 0; --i) {
    for (int64_t k = i + 1; k < n; ++k) b[i] -= entry(l, n, k, i) * b[k];
    b[i] /= entry(l, n, i, i);
  }
}

// I + α G of a Gram matrix (m, m), factorised.
Matrix factor(const Tensor& gram, double alpha) {
  const int64_t m = gram.size(0);
  Matrix a = gram.to_vector<double>();
  for (double& x : a) x *= alpha;
  for (int64_t i = 0; i < m; ++i) entry(a, m, i, i) += 1;
  cholesky(a, m);
  return a;
}

}  // namespace

Tensor coding_rate(const Tensor& x, double alpha) {
  NoGrad off;
  check(x.rank() >= 2, "coding_rate: wants tokens (…, n, p), got {}", x.shape());
  const Tensor t = on_host(x);
  const Tensor turned = transpose(t, -1, -2);
  const Tensor grams = t.size(-1) <= t.size(-2) ? matmul(turned, t) : matmul(t, turned);
  const int64_t m = grams.size(-1);
  const Tensor flat = reshape(grams, {-1, m, m});
  std::vector<double> rates;
  for (int64_t s = 0; s < flat.size(0); ++s) {
    Matrix l = factor(select(flat, 0, s), alpha);
    double rate = 0;
    for (int64_t i = 0; i < m; ++i) rate += std::log(entry(l, m, i, i));
    rates.push_back(rate);
  }
  Shape shape = x.shape();
  shape.pop_back();
  shape.pop_back();
  return from_values(rates, shape);
}

Tensor subspace_coding_rate(const Tensor& w, double epsilon) {
  NoGrad off;
  check(w.rank() == 4, "subspace_coding_rate: wants tokens (B, H, n, p), got {}", w.shape());
  const Tensor t = on_host(w);
  const Tensor length = clamp(norm(t, 2, {3}, true), 1e-12, INFINITY);
  const double alpha = static_cast<double>(t.size(3)) / (static_cast<double>(t.size(2)) * epsilon);
  return sum(coding_rate(t / length, alpha), {1});
}

Tensor coding_rate_gradient(const Tensor& z, const Tensor& u, int64_t heads, double a) {
  NoGrad off;
  check(z.rank() == 2 && u.rank() == 2 && u.size(1) == z.size(1) && u.size(0) % heads == 0,
        "coding_rate_gradient: tokens {} and subspaces {} of {} heads do not fit", z.shape(),
        u.shape(), heads);
  const Tensor tokens = on_host(z), bases = on_host(u);
  const int64_t p = u.size(0) / heads, n = z.size(0);
  Tensor total = zeros(z.shape(), {DType::f64, {}});
  for (int64_t h = 0; h < heads; ++h) {
    const Tensor basis = slice(bases, 0, h * p, (h + 1) * p);
    const Tensor x = kernels::contiguous(matmul(tokens, transpose(basis, 0, 1)));
    Matrix l = factor(matmul(transpose(x, 0, 1), x), a);
    for (int64_t i = 0; i < n; ++i) solve(l, p, x.data<double>() + i * p);
    total = total + matmul(x, basis) * a;
  }
  return total;
}

double nonzero_share(const Tensor& x) {
  return count_nonzero(x).item() / static_cast<double>(x.numel());
}

Tensor coherence(const Tensor& matrix, bool rows) {
  NoGrad off;
  const Tensor m = rows ? on_host(matrix) : transpose(on_host(matrix), 0, 1);
  const Tensor unit = m / clamp(norm(m, 2, {1}, true), 1e-12, INFINITY);
  return abs(matmul(unit, transpose(unit, 0, 1)));
}

}  // namespace tessera
