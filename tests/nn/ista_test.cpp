// What the sheet of CRATE must show of its sparsifying step.
#include "tessera/nn/ista.h"

#include <doctest/doctest.h>

#include "tessera/autograd/ops/activation.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/matmul.h"
#include "tessera/autograd/ops/reduce.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/tape.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/random.h"
#include "tessera/nn/check.h"
#include "tessera/nn/norm.h"
#include "tessera/tests/support.h"

using namespace tessera;
using namespace tessera::test;

namespace {

Ista step(double eta, double lambda, int64_t width = 8) {
  RandomScope scope(1);
  Ista::Config c;
  c.eta = eta;
  c.lambda = lambda;
  return {c, FeedForwardGeometry{.width = width}};
}

Tensor rows(int64_t count, int64_t width = 8) {
  RandomScope scope(2);
  return randn({count, width});
}

double nonzeros(const Tensor& x) {
  return count_nonzero(x).item() / static_cast<double>(x.numel());
}

}  // namespace

TEST_SUITE("gradient") {
  TEST_CASE("both sparsifying steps have right gradients") {
    const auto run = [](Module& m, const TensorList& in) {
      return TensorList{static_cast<FeedForward&>(m)(in[0], {})};
    };
    Ista ista = step(0.1, 0.1);
    OvercompleteLasso lasso({}, FeedForwardGeometry{.width = 8});
    for (Module* m : {static_cast<Module*>(&ista), static_cast<Module*>(&lasso)}) {
      const auto result = check_module(*m, run, {samples::normal({5, 8})});
      CHECK_MESSAGE(result.ok, result.message);
    }
  }
}

TEST_CASE("with the identity as dictionary the step is soft thresholding") {
  Ista m = step(0.2, 0.5);
  NoGrad off;
  kernels::copy(m.dictionary, eye(8));
  const Tensor y = rows(20);
  CHECK(worst(m(y, {}), relu(y - 0.2 * 0.5)) < 1e-6);
}

TEST_CASE("the step is proximal: it lowers the lasso's objective and nothing nearby is better") {
  Ista m = step(0.05, 0.1);
  NoGrad off;
  const Tensor y = rows(20);
  // 1/(2η) ‖z − (y − η ∇f(y))‖² + λ ‖z‖₁ over z ≥ 0, f(a) = ½ ‖y − D a‖².
  const Tensor gradient = matmul(linear(y, m.dictionary) - y, m.dictionary);
  const Tensor target = y - gradient * 0.05;
  const auto objective = [&](const Tensor& z) {
    return (sum((z - target) * (z - target)) * (0.5 / 0.05) + sum(z) * 0.1).item();
  };
  const Tensor z = m(y, {});
  CHECK(amin(z).item() >= 0);
  RandomScope scope(5);
  for (int trial = 0; trial < 20; ++trial) {
    CHECK(objective(relu(z + randn(z.shape()) * 0.01)) > objective(z));
  }
}

TEST_CASE("codes are never negative, and a larger price gives fewer of them") {
  NoGrad off;
  const Tensor y = rows(100);
  double before = 1.1;
  for (double lambda : {0.0, 0.1, 0.5, 2.0, 10.0, 100.0}) {
    const Tensor z = step(0.1, lambda)(y, {});
    CHECK(amin(z).item() >= 0);
    CHECK(nonzeros(z) < before);
    before = nonzeros(z);
  }
  CHECK(before == 0);
}

TEST_CASE("at the start between four and six tenths of the codes of a normalised stream live") {
  NoGrad off;
  const Tensor y = LayerNorm(64)(rows(100, 64));
  const double share = nonzeros(step(0.1, 0.1, 64)(y, {}));
  CHECK(share > 0.4);
  CHECK(share < 0.6);
}

TEST_CASE("a block whose feed-forward has no residual goes on from the codes alone") {
  CHECK_FALSE(step(0.1, 0.1).residual());
  CHECK(OvercompleteLasso({}, FeedForwardGeometry{.width = 8}).residual());
}
