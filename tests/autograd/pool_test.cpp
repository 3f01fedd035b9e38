#include "tessera/autograd/ops/pool.h"

#include <doctest/doctest.h>

#include <cmath>

#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/registry.h"
#include "tessera/autograd/tape.h"
#include "tessera/core/create.h"

using namespace tessera;

namespace {

const Tensor kRamp = arange(0, 16, 1, {DType::f32, {}});

Tensor ramp() {
  return Tensor(kRamp.storage(), {1, 1, 4, 4}, {16, 16, 4, 1}, 0, DType::f32);
}

}  // namespace

TEST_CASE("average pooling of a ramp gives the centres of its windows") {
  CHECK(avg_pool(ramp(), {2}).to_vector<float>() == std::vector<float>{2.5, 4.5, 10.5, 12.5});
  CHECK(adaptive_avg_pool(ramp(), {2, 1}).to_vector<float>() == std::vector<float>{3.5, 11.5});
  CHECK(global_avg_pool(ramp()).to_vector<float>() == std::vector<float>{7.5});
}

TEST_CASE("zeros of the padding count in a mean only when asked") {
  const Tensor x = ones({1, 1, 2, 2});
  CHECK(avg_pool(x, {2}, {.padding = {1}}).to_vector<float>() ==
        std::vector<float>{0.25, 0.25, 0.25, 0.25});
  CHECK(avg_pool(x, {2}, {.padding = {1}, .count_include_pad = false}).to_vector<float>() ==
        std::vector<float>{1, 1, 1, 1});
}

TEST_CASE("max pooling equals the maximum over every window, with its position") {
  const Tensor x = samples::normal({2, 3, 7, 8});
  const MaxPoolResult r =
      max_pool_with_index(x, {3, 2}, {.stride = {2, 1}, .padding = {1}, .dilation = {1, 2}});
  const auto values = x.to_vector<double>();
  const auto y = r.y.to_vector<double>();
  const auto index = r.index.to_vector<int64_t>();
  size_t at = 0;
  for (int64_t plane = 0; plane < 6; ++plane) {
    for (int64_t i = 0; i < r.y.size(2); ++i) {
      for (int64_t j = 0; j < r.y.size(3); ++j, ++at) {
        double best = -INFINITY;
        int64_t where = -1;
        for (int64_t h = 2 * i - 1; h < 2 * i + 2; ++h) {
          for (int64_t w = j - 1; w < j + 2; w += 2) {
            if (h < 0 || h >= 7 || w < 0 || w >= 8) continue;
            const double v = values[static_cast<size_t>(plane * 56 + h * 8 + w)];
            if (v > best) where = h * 8 + w;
            best = std::max(best, v);
          }
        }
        CHECK(y[at] == best);
        CHECK(index[at] == where);
      }
    }
  }
}

TEST_CASE("among equal maxima the first in row-major order is chosen and receives the gradient") {
  const Tensor x = tensor({0, 1, 1, 0}, {1, 1, 2, 2}).set_requires_grad();
  const MaxPoolResult r = max_pool_with_index(x, {2});
  CHECK(r.index.item<int64_t>() == 1);
  sum(r.y).backward();
  CHECK(x.grad().to_vector<float>() == std::vector<float>{0, 1, 0, 0});
}

TEST_CASE("NaN is the maximum of its window") {
  CHECK(std::isnan(max_pool(tensor({1, NAN, 2, 3}, {1, 1, 2, 2}), {2}).item()));
}

TEST_CASE("adaptive max pooling covers every element") {
  const Tensor x = samples::normal({1, 1, 5, 7});
  double best = -INFINITY;
  for (double v : x.to_vector<double>()) best = std::max(best, v);
  double pooled = -INFINITY;
  for (double v : adaptive_max_pool(x, {2, 3}).y.to_vector<double>()) pooled = std::max(pooled, v);
  CHECK(pooled == best);
}
