#include "tessera/autograd/ops/scan.h"

#include <doctest/doctest.h>

#include <cmath>

#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/registry.h"
#include "tessera/autograd/tape.h"
#include "tessera/core/create.h"
#include "tessera/core/parallel.h"

using namespace tessera;

namespace {

using Values = std::vector<double>;
constexpr double kInf = INFINITY;

}  // namespace

TEST_CASE("cumsum adds from either end, with or without the entry itself") {
  const Tensor x = tensor({1, 2, 3, 4, 5, 6}, {2, 3});
  CHECK(cumsum(x, 1).to_vector<double>() == Values{1, 3, 6, 4, 9, 15});
  CHECK(cumsum(x, 0).to_vector<double>() == Values{1, 2, 3, 5, 7, 9});
  CHECK(cumsum(x, 1, {.exclusive = true}).to_vector<double>() == Values{0, 1, 3, 0, 4, 9});
  CHECK(cumsum(x, 1, {.reverse = true}).to_vector<double>() == Values{6, 5, 3, 15, 11, 6});
  CHECK(cumsum(x, 1, {true, true}).to_vector<double>() == Values{5, 3, 0, 11, 6, 0});
  const Tensor flags = cumsum(full({300}, 1, {DType::boolean, {}}), 0);
  CHECK(flags.dtype() == DType::i64);
  CHECK(flags.to_vector<int64_t>().back() == 300);
  CHECK(cumsum(x.to(DType::bf16), 1).dtype() == DType::bf16);
}

TEST_CASE("cumsum of many small f32 numbers keeps its digits") {
  CHECK(cumsum(full({1 << 20}, 0.1), 0).to_vector<double>().back() ==
        doctest::Approx(0.1f * (1 << 20)).epsilon(1e-7));
}

TEST_CASE("cumprod has exact gradients with zeros") {
  const Tensor x = tensor({2, 0, 3, 0}, {4}, DType::f64).set_requires_grad();
  const Tensor y = cumprod(x, 0);
  CHECK(y.to_vector<double>() == Values{2, 0, 0, 0});
  for (bool again : {false, true}) {
    const Tensor g = grad({cumprod(x, 0)}, {x}, {ones_like(x)}, {.create_graph = again})[0];
    CHECK(g.to_vector<double>() == Values{1, 8, 0, 0});
  }
}

TEST_CASE("cummax gives the first of equal maxima and lets NaN win") {
  const auto [values, indices] = cummax(tensor({1, 3, 2, 3, NAN, 5}, {6}), 0);
  const auto v = values.to_vector<double>();
  CHECK(Values(v.begin(), v.begin() + 4) == Values{1, 3, 3, 3});
  CHECK(std::isnan(v[5]));
  CHECK(indices.to_vector<int64_t>() == std::vector<int64_t>{0, 1, 1, 1, 4, 4});
}

TEST_CASE("logcumsumexp neither overflows nor turns infinities into NaN") {
  const Tensor x = tensor({-kInf, 1000, 1000, kInf, 2}, {5}, DType::f64).set_requires_grad();
  const Tensor y = logcumsumexp(x, 0);
  const auto v = y.to_vector<double>();
  CHECK(v[0] == -kInf);
  CHECK(v[2] == doctest::Approx(1000 + std::log(2.0)));
  CHECK(v[4] == kInf);
  const auto g = grad({y}, {x}, {ones_like(y)})[0].to_vector<double>();
  CHECK(g[0] == 0);
  CHECK(g[1] == doctest::Approx(1.5));
  CHECK(g[2] == doctest::Approx(0.5));
  CHECK(g[4] == 0);
  const auto wide = logcumsumexp(tensor({-800, 0, 800}, {3}, DType::f64), 0).to_vector<double>();
  CHECK(wide == Values{-800, 0, 800});
}

TEST_CASE("scans give the same bits for any number of threads") {
  const Tensor x = samples::normal({300, 200}).to(DType::f32).set_requires_grad();
  auto bits = [&](int threads) {
    set_num_threads(threads);
    const Tensor y = cumsum(x, 1) + logcumsumexp(x, 0) + cumprod(x, 1) + cummax(x, 0).values;
    std::vector<float> all = grad({sum(y * y)}, {x})[0].to_vector<float>();
    const auto values = y.to_vector<float>();
    all.insert(all.end(), values.begin(), values.end());
    return all;
  };
  const int before = num_threads();
  const auto one = bits(1);
  const auto two = bits(2);
  set_num_threads(before);
  CHECK(one == two);
}
