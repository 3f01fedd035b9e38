// The measures of rate reduction.
#include "tessera/analysis/coding_rate.h"

#include <doctest/doctest.h>

#include <cmath>

#include "tessera/attention/mssa.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/elementwise.h"
#include "tessera/autograd/ops/matmul.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/tape.h"
#include "tessera/core/create.h"
#include "tessera/core/random.h"
#include "tessera/tests/support.h"

using namespace tessera;
using namespace tessera::test;

namespace {

Tensor normal(const Shape& shape, uint64_t seed) {
  RandomScope scope(seed);
  return randn(shape, DType::f64);
}

// R^c(Z | U) = Σ_h ½ logdet(I + a (Z U_h)ᵀ(Z U_h)), U as rows (H p, width).
double rate(const Tensor& z, const Tensor& u, int64_t heads, double a) {
  const int64_t p = u.size(0) / heads;
  double total = 0;
  for (int64_t h = 0; h < heads; ++h) {
    const Tensor basis = slice(u, 0, h * p, (h + 1) * p);
    total += coding_rate(matmul(z, transpose(basis, 0, 1)), a).item();
  }
  return total;
}

}  // namespace

TEST_CASE("the log-determinant of the p x p form equals that of the n x n form") {
  for (auto [n, p] : {std::pair<int64_t, int64_t>{17, 5}, {5, 17}, {6, 6}, {1, 3}}) {
    const Tensor x = normal({n, p}, 1);
    CHECK(coding_rate(x, 0.7).item() ==
          doctest::Approx(coding_rate(transpose(x, 0, 1), 0.7).item()).epsilon(1e-10));
  }
  // ½ log(1 + α ‖x‖²) of one token.
  const Tensor x = normal({1, 4}, 2);
  CHECK(coding_rate(x, 0.3).item() == doctest::Approx(0.5 * std::log(1 + 0.3 * sum(x * x).item())));
  CHECK(coding_rate(normal({2, 3, 7, 4}, 3), 1).shape() == Shape{2, 3});
}

TEST_CASE("the reported rate depends on the directions of tokens, not on their lengths") {
  const Tensor w = normal({2, 3, 8, 4}, 1);
  const Tensor a = subspace_coding_rate(w), b = subspace_coding_rate(w * 7);
  CHECK(a.shape() == Shape{2});
  CHECK(worst(a, b) < 1e-9);
  const Tensor same = w * 0 + 1;  // all tokens alike: one direction
  CHECK(sum(subspace_coding_rate(same)).item() < sum(a).item());
}

TEST_CASE("the exact gradient of the coding rate is that of finite differences") {
  const Tensor z = normal({6, 8}, 1), u = normal({8, 8}, 2) * 0.4;
  const Tensor g = coding_rate_gradient(z, u, 2, 0.9);
  constexpr double kStep = 1e-5;
  for (int64_t i = 0; i < 6; i += 2) {
    for (int64_t j = 0; j < 8; ++j) {
      const Tensor up = z.detach() + 0.0, down = z.detach() + 0.0;
      up.data<double>()[i * 8 + j] += kStep;
      down.data<double>()[i * 8 + j] -= kStep;
      const double slope = (rate(up, u, 2, 0.9) - rate(down, u, 2, 0.9)) / (2 * kStep);
      CHECK(g.data<double>()[i * 8 + j] == doctest::Approx(slope).epsilon(1e-6));
    }
  }
}

TEST_CASE("a small step along the exact gradient lowers the coding rate") {
  const Tensor z = normal({10, 8}, 1), u = normal({8, 8}, 2) * 0.4;
  const Tensor g = coding_rate_gradient(z, u, 2, 0.9);
  double before = rate(z, u, 2, 0.9);
  for (double kappa : {0.01, 0.05, 0.1}) {
    const double after = rate(z - g * kappa, u, 2, 0.9);
    CHECK(after < before);
    before = after;
  }
}

TEST_CASE("sparsity counts exact zeros, coherence compares directions") {
  CHECK(nonzero_share(from_values(std::vector<float>{0, 1, -2, 0}, {2, 2})) == 0.5);
  const Tensor m = from_values(std::vector<float>{1, -2, 0, 0, 0, 3}, {2, 3});
  const auto c = coherence(m).to_vector<double>();
  CHECK(c[1] == doctest::Approx(1));  // columns (1, 0) and (−2, 0)
  CHECK(c[2] == doctest::Approx(0));
  CHECK(coherence(m, true).shape() == Shape{2, 2});
}
