#include "tessera/autograd/ops/dropout.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/registry.h"
#include "tessera/autograd/tape.h"
#include "tessera/core/create.h"
#include "tessera/core/parallel.h"
#include "tessera/core/random.h"

using namespace tessera;

TEST_CASE("dropout keeps a share 1 − p, scaled, and its gradient has the same zeros") {
  const RandomScope scope(3);
  Tensor x = ones({100'000});
  x.set_requires_grad();
  const Tensor y = dropout(x, 0.25);
  const auto values = y.to_vector<float>();
  const auto dropped = std::count(values.begin(), values.end(), 0.0f);
  CHECK(dropped == doctest::Approx(25'000).epsilon(0.02));
  for (float v : values) CHECK_UNARY((v == 0 || v == doctest::Approx(4.0 / 3)));
  sum(y).backward();
  CHECK(x.grad().to_vector<float>() == values);
}

TEST_CASE("dropout without training or probability gives the tensor itself and draws nothing") {
  const RandomScope scope(3);
  const Tensor x = ones({4});
  CHECK(dropout(x, 0.5, false).is_same(x));
  CHECK(dropout(x, 0).is_same(x));
  CHECK(drop_path(x, 0).is_same(x));
  CHECK(RandomScope::state().uses == 0);
}

TEST_CASE("every dropout of a step draws other numbers, and a repeated step the same ones") {
  const Tensor x = ones({64});
  const auto draw = [&](uint64_t step) {
    const RandomScope scope(3, step);
    return std::pair{dropout(x, 0.5).to_vector<float>(), dropout(x, 0.5).to_vector<float>()};
  };
  CHECK(draw(1).first != draw(1).second);
  CHECK(draw(1) == draw(1));
  CHECK(draw(1) != draw(2));
}

TEST_CASE("dropout gives the same bits for any number of threads") {
  const Tensor x = samples::normal({50'001}).to(DType::f32);
  const auto run = [&] {
    const RandomScope scope(3);
    return dropout(x, 0.1).to_vector<float>();
  };
  const int before = num_threads();
  set_num_threads(1);
  const auto one = run();
  set_num_threads(2);
  CHECK(run() == one);
  set_num_threads(before);
}

TEST_CASE("drop_path keeps or drops whole samples") {
  const RandomScope scope(1);
  const auto y = drop_path(ones({1000, 3, 2}), 0.5).to_vector<float>();
  int64_t kept = 0;
  for (size_t i = 0; i < y.size(); i += 6) {
    kept += y[i] != 0;
    CHECK(std::all_of(y.begin() + static_cast<int64_t>(i), y.begin() + static_cast<int64_t>(i) + 6,
                      [&](float v) { return v == y[i]; }));
  }
  CHECK(kept == doctest::Approx(500).epsilon(0.1));
}

TEST_CASE("gumbel_softmax samples classes with the probabilities of softmax") {
  const RandomScope scope(11);
  const Tensor x = tensor({0, std::log(3.0)}, {1, 2}, DType::f64) + zeros({8000, 2});
  const Tensor y = gumbel_softmax(x, 0.5, true);
  const auto counts = sum(y, {0}).to_vector<double>();
  CHECK(counts[0] + counts[1] == 8000);
  CHECK(counts[1] == doctest::Approx(6000).epsilon(0.03));
}

TEST_CASE("hard gumbel_softmax passes the gradient of the relaxed sample") {
  Tensor x = samples::normal({2, 3});
  x.set_requires_grad();
  const Tensor weights = samples::normal({2, 3}, 1);
  const auto gradient = [&](bool hard) {
    const RandomScope scope(2);
    return grad({sum(gumbel_softmax(x, 0.8, hard) * weights)}, {x})[0].to_vector<double>();
  };
  CHECK(gradient(true) == gradient(false));
}
