#include "tessera/autograd/ops/comparison.h"

#include <doctest/doctest.h>

#include <cmath>

#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/registry.h"
#include "tessera/autograd/tape.h"
#include "tessera/core/create.h"

using namespace tessera;

namespace {

using Bits = std::vector<uint8_t>;

Bits bits(const Tensor& x) {
  CHECK(x.dtype() == DType::boolean);
  return x.to_vector<uint8_t>();
}

Tensor integers(const std::vector<int64_t>& values) {
  return from_values(values, {static_cast<int64_t>(values.size())});
}

}  // namespace

TEST_CASE("comparisons with NaN are false, except ne") {
  const Tensor a = tensor({1, 2, 3, NAN}, {4});
  const Tensor b = tensor({2, 2, 2, NAN}, {4});
  CHECK(bits(eq(a, b)) == Bits{0, 1, 0, 0});
  CHECK(bits(ne(a, b)) == Bits{1, 0, 1, 1});
  CHECK(bits(lt(a, b)) == Bits{1, 0, 0, 0});
  CHECK(bits(le(a, b)) == Bits{1, 1, 0, 0});
  CHECK(bits(gt(a, b)) == Bits{0, 0, 1, 0});
  CHECK(bits(ge(a, b)) == Bits{0, 1, 1, 0});
  CHECK(bits(ge(a, 2)) == Bits{0, 1, 1, 0});
  CHECK(bits(ne(a, NAN)) == Bits{1, 1, 1, 1});
}

TEST_CASE("integers compare exactly, with each other and with real constants") {
  const int64_t big = (int64_t{1} << 53) + 1;
  CHECK(bits(eq(integers({big}), integers({big - 1}))) == Bits{0});
  CHECK(bits(lt(integers({-1, 0, 1}), 0.5)) == Bits{1, 1, 0});
  CHECK(bits(eq(integers({0, 1}), 0.5)) == Bits{0, 0});
}

TEST_CASE("an f32 tensor compares with a constant as f32") {
  CHECK(bits(eq(tensor({0.1}, {1}), 0.1)) == Bits{1});
}

TEST_CASE("logic takes any dtype") {
  const Tensor a = tensor({0, 0, 2, NAN}, {4});
  const Tensor b = tensor({0, 1, 0, 1}, {4});
  CHECK(bits(logical_and(a, b)) == Bits{0, 0, 0, 1});
  CHECK(bits(logical_or(a, b)) == Bits{0, 1, 1, 1});
  CHECK(bits(logical_not(a)) == Bits{1, 1, 0, 0});
  CHECK(bits(logical_not(eq(b, 1))) == Bits{1, 0, 1, 0});
}

TEST_CASE("any and all reduce over dimensions and know what nothing gives") {
  const Tensor x = tensor({0, 1, 0, 0, 1, 1}, {3, 2});
  CHECK(bits(any(x, {1})) == Bits{1, 0, 1});
  CHECK(bits(all(x, {1}, true)) == Bits{0, 0, 1});
  CHECK(bits(any(x)) == Bits{1});
  CHECK(bits(all(x)) == Bits{0});
  CHECK(bits(any(zeros({0}))) == Bits{0});
  CHECK(bits(all(zeros({0}))) == Bits{1});
}

TEST_CASE("where passes no gradient, not even NaN, to what was not chosen") {
  const Tensor a = tensor({1, 2}, {2}).set_requires_grad();
  const Tensor b = tensor({10}, {1}).set_requires_grad();
  const Tensor y = where(gt(tensor({1, -1}, {2}), 0), a, b);
  CHECK(y.to_vector<float>() == std::vector<float>{1, 10});
  y.backward(tensor({3, NAN}, {2}));
  CHECK(a.grad().to_vector<float>() == std::vector<float>{3, 0});
  CHECK(std::isnan(b.grad().item()));
  CHECK(where(eq(integers({0, 1}), 1), integers({7, 7}), integers({8, 8})).to_vector<int64_t>() ==
        std::vector<int64_t>{8, 7});
}

TEST_CASE("masked_fill replaces entries and stops their gradient") {
  const Tensor x = tensor({1, 2, 3}, {3}).set_requires_grad();
  const Tensor y = masked_fill(x, lt(x, 2.5), -INFINITY);
  CHECK(y.to_vector<double>() == std::vector<double>{-INFINITY, -INFINITY, 3});
  sum(y * 2).backward();
  CHECK(x.grad().to_vector<double>() == std::vector<double>{0, 0, 2});
  CHECK_THROWS_WITH_AS(masked_fill(x, x, 0), doctest::Contains("bool"), Error);
}
