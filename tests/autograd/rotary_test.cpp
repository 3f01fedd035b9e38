#include "tessera/autograd/ops/rotary.h"

#include <doctest/doctest.h>

#include <cmath>

#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/registry.h"
#include "tessera/core/create.h"

using namespace tessera;

namespace {

Tensor at(std::vector<int64_t> positions) {
  return from_values(positions, {static_cast<int64_t>(positions.size())});
}

double dot(const Tensor& a, const Tensor& b) {
  return sum(a * b).item();
}

}  // namespace

TEST_CASE("rotary turns the pairs (i, i + D/2) by position times base^(−2i/D)") {
  const Tensor x = tensor({1, 2, 3, 4}, {1, 4}, DType::f64);
  const auto y = rotary(x, at({5})).to_vector<double>();
  const double slow = 5 * std::pow(10000, -0.5);
  CHECK(y[0] == doctest::Approx(std::cos(5) - 3 * std::sin(5)));
  CHECK(y[2] == doctest::Approx(3 * std::cos(5) + std::sin(5)));
  CHECK(y[1] == doctest::Approx(2 * std::cos(slow) - 4 * std::sin(slow)));
  CHECK(y[3] == doctest::Approx(4 * std::cos(slow) + 2 * std::sin(slow)));
  const auto z = rotary(x, at({5}), {.interleaved = true}).to_vector<double>();
  CHECK(z[0] == doctest::Approx(std::cos(5) - 2 * std::sin(5)));
  CHECK(z[1] == doctest::Approx(2 * std::cos(5) + std::sin(5)));
}

TEST_CASE("products of rotated queries and keys depend on the difference of positions alone") {
  const Tensor q = samples::normal({1, 8});
  const Tensor k = samples::normal({1, 8}, 1);
  for (const char* scaling : {"none", "linear", "llama3"}) {
    const RotaryOptions o{.scaling = scaling, .factor = 4};
    const double near = dot(rotary(q, at({7}), o), rotary(k, at({3}), o));
    const double far = dot(rotary(q, at({1007}), o), rotary(k, at({1003}), o));
    CHECK(near == doctest::Approx(far).epsilon(1e-9));
    CHECK(dot(rotary(q, at({900}), o), rotary(q, at({900}), o)) == doctest::Approx(dot(q, q)));
  }
  CHECK(rotary(q, at({0})).to_vector<double>() == q.to_vector<double>());
}

TEST_CASE("linear scaling divides positions, llama3 keeps fast pairs and divides slow ones") {
  const Tensor x = samples::normal({1, 64});
  CHECK(rotary(x, at({40}), {.scaling = "linear", .factor = 4}).to_vector<double>()[3] ==
        doctest::Approx(rotary(x, at({10})).to_vector<double>()[3]));
  const RotaryOptions llama{.scaling = "llama3", .factor = 8};
  const auto scaled = rotary(x, at({80}), llama).to_vector<double>();
  CHECK(scaled[0] == doctest::Approx(rotary(x, at({80})).to_vector<double>()[0]));
  CHECK(scaled[31] == doctest::Approx(rotary(x, at({10})).to_vector<double>()[31]));
}

// Frequencies and amplitudes of transformers 5.17 (modeling_rope_utils, _compute_yarn_parameters).
TEST_CASE("yarn turns by the frequencies of transformers, and what is turned becomes larger") {
  const auto check_turns = [](const RotaryOptions& o, double amplitude,
                              const std::vector<double>& frequencies) {
    std::vector<double> x(8, 1.0);
    x.resize(16);
    const auto y = rotary(from_values(x, {1, 16}), at({7}), o).to_vector<double>();
    for (size_t i = 0; i < 8; ++i) {
      CAPTURE(i);
      CHECK(y[i] == doctest::Approx(amplitude * std::cos(7 * frequencies[i])).epsilon(1e-8));
      CHECK(y[8 + i] == doctest::Approx(amplitude * std::sin(7 * frequencies[i])).epsilon(1e-8));
    }
  };
  check_turns(
      {.scaling = "yarn", .factor = 4, .high = 32, .original_context = 2048}, 1.138629436111989,
      {1.0, 0.316227766, 0.1, 0.025693506, 0.00625, 0.00138349648, 0.00025, 7.90569415e-05});
  check_turns({.base = 500000,
               .scaling = "yarn",
               .factor = 16,
               .low = 2,
               .high = 16,
               .original_context = 512,
               .amplitude = 0.9348779926481438},
              0.9348779926481438,
              {1.0, 0.133321887, 0.0141022616, 0.000455791546, 8.83883476e-05, 1.7140511e-05,
               3.32393494e-06, 6.44586586e-07});
}

TEST_CASE("rotary reads heads of a packed tensor with their strides and copies channels beyond") {
  const Tensor packed = samples::normal({2, 3, 4, 6});  // (B, T, H, D)
  const Tensor heads = transpose(packed, 1, 2);
  const Tensor positions = at({4, 5, 6});
  const RotaryOptions o{.rotary_dim = 4};
  CHECK(rotary(heads, positions, o).to_vector<double>() ==
        rotary(contiguous(heads), positions, o).to_vector<double>());
  CHECK(slice(rotary(heads, positions, o), -1, 4).to_vector<double>() ==
        slice(heads, -1, 4).to_vector<double>());
}
