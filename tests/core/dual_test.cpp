#include "tessera/core/dual.h"

#include <doctest/doctest.h>

#include <limits>

using namespace tessera;

TEST_CASE("dual arithmetic follows the product and quotient rules") {
  const Dual<double> x{3.0, 1.0};
  const auto product = x * x + 2.0 * x - 1;
  CHECK(product.value == 14.0);
  CHECK(product.deriv == 8.0);
  const auto quotient = 1.0 / x + x / 2.0 - x / (x + 1);
  CHECK(quotient.value == doctest::Approx(1.0 / 3 + 1.5 - 0.75));
  CHECK(quotient.deriv == doctest::Approx(-1.0 / 9 + 0.5 - 1.0 / 16));
  const auto negated = -(5 - x);
  CHECK(negated.value == -2.0);
  CHECK(negated.deriv == 1.0);
}

TEST_CASE("nested dual numbers carry second derivatives") {
  const Dual<Dual<double>> x{{2.0, 1.0}, {1.0, 0.0}};
  const auto cube = x * x * x;
  CHECK(cube.value.value == 8.0);
  CHECK(cube.value.deriv == 12.0);
  CHECK(cube.deriv.value == 12.0);
  CHECK(cube.deriv.deriv == 12.0);
  const auto inverse = 1 / x;
  CHECK(inverse.deriv.value == -0.25);
  CHECK(inverse.deriv.deriv == 0.25);
}

TEST_CASE("dual numbers compare by value, with one another and with scalars") {
  const Dual<float> a{1.0f, 5.0f}, b{2.0f, -5.0f};
  CHECK(a < b);
  CHECK(b >= a);
  CHECK(a == 1);
  CHECK(2.0 == b);
  CHECK(a != b);
  CHECK(Dual<Dual<float>>(a) <= b);
  CHECK(0 < Dual<Dual<float>>(3));
}

TEST_CASE("compound assignment and conversion take scalars of any type") {
  Dual<float> x{2.0f, 1.0f};
  x *= 3;
  x += 1.0;
  x -= x / 7;
  CHECK(x.value == 6.0f);
  CHECK(x.deriv == doctest::Approx(3.0f - 3.0f / 7));
  const Dual<Dual<double>> constant(4);
  CHECK(constant.value.value == 4.0);
  CHECK(constant.deriv.value == 0.0);
}

TEST_CASE("chain multiplies derivatives with zero times infinity equal to zero") {
  const float inf = std::numeric_limits<float>::infinity();
  CHECK(chain(0.0f, inf) == 0.0f);
  CHECK(chain(-inf, 0.0f) == 0.0f);
  CHECK(chain(2.0f, -inf) == -inf);
  CHECK(chain(3.0f, 4.0f) == 12.0f);
}

TEST_CASE("scalar_of_t strips every level of dual numbers") {
  static_assert(std::is_same_v<scalar_of_t<Dual<Dual<float>>>, float>);
  static_assert(std::is_same_v<scalar_of_t<double>, double>);
  static_assert(is_dual<Dual<float>>::value && !is_dual<float>::value);
}
