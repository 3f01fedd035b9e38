#include "tessera/autograd/ops/conv.h"

#include <doctest/doctest.h>

#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/unfold.h"
#include "tessera/autograd/registry.h"
#include "tessera/autograd/tape.h"
#include "tessera/core/create.h"
#include "tessera/core/parallel.h"

using namespace tessera;

namespace {

struct Case {
  Shape x;  // (B, C, H, W)
  Shape w;
  Shape stride;
  Shape padding;
  Shape dilation;
  int64_t groups;
};

// Straight from the formula.
std::vector<double> naive_conv2d(const Case& c, const std::vector<double>& x,
                                 const std::vector<double>& w, const Shape& out) {
  std::vector<double> y;
  const int64_t outputs = c.w[0] / c.groups;
  for (int64_t b = 0; b < c.x[0]; ++b) {
    for (int64_t o = 0; o < c.w[0]; ++o) {
      for (int64_t p = 0; p < out[0] * out[1]; ++p) {
        double sum = 0;
        for (int64_t k = 0; k < c.w[1] * c.w[2] * c.w[3]; ++k) {
          const int64_t channel = o / outputs * c.w[1] + k / (c.w[2] * c.w[3]);
          const int64_t kh = k / c.w[3] % c.w[2];
          const int64_t kw = k % c.w[3];
          const int64_t h = p / out[1] * c.stride[0] + kh * c.dilation[0] - c.padding[0];
          const int64_t v = p % out[1] * c.stride[1] + kw * c.dilation[1] - c.padding[1];
          if (h < 0 || h >= c.x[2] || v < 0 || v >= c.x[3]) continue;
          const int64_t at = ((b * c.x[1] + channel) * c.x[2] + h) * c.x[3] + v;
          sum +=
              x[static_cast<size_t>(at)] * w[static_cast<size_t>(o * c.w[1] * c.w[2] * c.w[3] + k)];
        }
        y.push_back(sum);
      }
    }
  }
  return y;
}

std::vector<float> run_all(int threads) {
  const int before = num_threads();
  set_num_threads(threads);
  std::vector<float> values;
  const auto f32 = [](const Shape& shape, uint64_t salt) {
    return samples::normal(shape, salt).to(DType::f32).set_requires_grad();
  };
  const auto add = [&](const Tensor& x) {
    for (float v : x.to_vector<float>()) values.push_back(v);
  };
  const Tensor x = f32({9, 8, 20, 20}, 1);
  for (int64_t groups : {1, 2, 8}) {
    const Tensor w = f32({16, 8 / groups, 3, 3}, 2);
    const Tensor y = conv2d(x, w, {}, {.padding = {1}, .groups = groups});
    x.set_grad({});
    sum(y * y).backward();
    for (const Tensor& t : {y, x.grad(), w.grad()}) add(t);
  }
  set_num_threads(before);
  return values;
}

}  // namespace

TEST_CASE("conv2d computes its formula for every stride, padding, dilation and grouping") {
  const std::vector<Case> cases = {
      {{2, 3, 7, 6}, {4, 3, 3, 3}, {1, 1}, {1, 1}, {1, 1}, 1},
      {{2, 4, 9, 8}, {6, 2, 3, 2}, {2, 3}, {1, 0}, {2, 1}, 2},
      {{1, 4, 6, 6}, {4, 1, 3, 3}, {1, 1}, {2, 1}, {1, 2}, 4},
      {{1, 4, 7, 6}, {8, 1, 3, 3}, {2, 2}, {1, 1}, {1, 1}, 4},
      {{2, 3, 4, 5}, {5, 3, 1, 1}, {1, 1}, {0, 0}, {1, 1}, 1},
      {{2, 3, 4, 6}, {5, 3, 2, 3}, {2, 3}, {0, 0}, {1, 1}, 1},
      {{1, 200, 30, 31}, {3, 200, 5, 5}, {1, 1}, {2, 2}, {1, 1}, 1},  // several blocks
  };
  for (const Case& c : cases) {
    const Tensor x = samples::normal(c.x);
    const Tensor w = samples::normal(c.w, 1);
    const Tensor y = conv2d(x, w, {}, {c.stride, c.padding, c.dilation, c.groups});
    const auto expected =
        naive_conv2d(c, x.to_vector<double>(), w.to_vector<double>(), {y.size(2), y.size(3)});
    const auto got = y.to_vector<double>();
    REQUIRE(got.size() == expected.size());
    double worst = 0;
    for (size_t i = 0; i < got.size(); ++i) worst = std::max(worst, std::abs(got[i] - expected[i]));
    CAPTURE(c.w);
    CHECK(worst < 1e-9);
  }
}

TEST_CASE("conv_transpose2d is the adjoint of conv2d") {
  const ConvOptions options{.stride = {2, 3}, .padding = {1, 2}, .dilation = {2, 1}, .groups = 2};
  const Tensor x = samples::normal({2, 4, 8, 9});
  const Tensor w = samples::normal({6, 2, 3, 4}, 1);
  const Tensor y = conv2d(x, w, {}, options);
  const Tensor g = samples::normal(y.shape(), 2);
  const Tensor back = conv_transpose2d(g, w, {},
                                       {.stride = {2, 3},
                                        .padding = {1, 2},
                                        .output_padding = {1, 0},
                                        .dilation = {2, 1},
                                        .groups = 2});
  REQUIRE(back.shape() == x.shape());
  CHECK(sum(back * x).item() == doctest::Approx(sum(g * y).item()).epsilon(1e-12));
}

TEST_CASE("fold of an unfolded tensor counts how many windows saw each element") {
  const Tensor x = ones({1, 1, 3, 3});
  const Tensor y = fold(unfold(x, {2}), {3, 3}, {2});
  CHECK(y.to_vector<float>() == std::vector<float>{1, 2, 1, 2, 4, 2, 1, 2, 1});
}

TEST_CASE("unfold lists windows channel by channel") {
  const Tensor x = tensor({1, 2, 3, 4, 5, 6}, {1, 2, 3});
  const Tensor y = unfold(x, {2});
  CHECK(y.shape() == Shape{1, 4, 2});
  CHECK(y.to_vector<float>() == std::vector<float>{1, 2, 2, 3, 4, 5, 5, 6});
}

TEST_CASE("convolutions and their gradients are the same bits for any number of threads") {
  CHECK(run_all(1) == run_all(2));
}

TEST_CASE("a kernel larger than the padded input is refused with both sizes") {
  CHECK_THROWS_WITH_AS(conv2d(ones({1, 1, 2, 2}), ones({1, 1, 5, 5}), {}, {.padding = {1}}),
                       doctest::Contains("kernel (5, 5) with dilation (1, 1) is larger than the "
                                         "input (2, 2) with padding (1, 1)"),
                       Error);
}
