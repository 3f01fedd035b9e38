#include "tessera/autograd/ops/interpolate.h"

#include <doctest/doctest.h>

#include <cmath>

#include "tessera/autograd/ops/grid_sample.h"
#include "tessera/autograd/ops/pad.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/registry.h"
#include "tessera/core/create.h"

using namespace tessera;

namespace {

void check_near(const Tensor& x, const std::vector<double>& expected) {
  const auto values = x.to_vector<double>();
  REQUIRE(values.size() == expected.size());
  for (size_t i = 0; i < values.size(); ++i) {
    CHECK(values[i] == doctest::Approx(expected[i]).epsilon(1e-9));
  }
}

Tensor line(std::initializer_list<double> values) {
  return tensor(values, {1, 1, static_cast<int64_t>(values.size())}, DType::f64);
}

Tensor points(std::initializer_list<double> values) {
  return tensor(values, {1, 1, static_cast<int64_t>(values.size()) / 2, 2}, DType::f64);
}

}  // namespace

TEST_CASE("bilinear resizing of a line gives known values") {
  check_near(interpolate(line({0, 4}), {4}), {0, 1, 3, 4});
  check_near(interpolate(line({0, 4}), {3}, {.align_corners = true}), {0, 2, 4});
  check_near(interpolate(line({0, 2, 4, 6}), {2}), {1, 5});
  check_near(interpolate(line({0, 2, 4, 6}), {1}, {.align_corners = true}), {0});
}

TEST_CASE("nearest resizing repeats and skips elements") {
  const InterpolateOptions nearest{.mode = Interpolation::nearest};
  check_near(interpolate(line({1, 2}), {5}, nearest), {1, 1, 1, 2, 2});
  check_near(interpolate(line({1, 2, 3, 4, 5}), {2}, nearest), {1, 3});
}

TEST_CASE("bicubic resizing uses a = −3/4, and −1/2 with antialiasing") {
  // Position 1/4 between the two middle elements of 0 0 1 1 … of an enlargement by two.
  const InterpolateOptions cubic{.mode = Interpolation::bicubic};
  const Tensor y = interpolate(line({0, 0, 1, 1}), {8}, cubic);
  // t = 1/4: weights (a − 2a t + a t²) t, …; the ones lie at distances 3/4 and 7/4.
  const double a = -0.75;
  const double near = ((a + 2) * 0.75 - (a + 3)) * 0.75 * 0.75 + 1;
  const double far = (((1.75 - 5) * 1.75 + 8) * 1.75 - 4) * a;
  CHECK(y.to_vector<double>()[3] == doctest::Approx(near + far));
  // Without shrinking, the antialiased filter is Keys' own with a = −1/2.
  const Tensor z =
      interpolate(line({0, 0, 1, 1}), {8}, {.mode = Interpolation::bicubic, .antialias = true});
  const double b = -0.5;
  const double near_b = ((b + 2) * 0.75 - (b + 3)) * 0.75 * 0.75 + 1;
  const double far_b = (((1.75 - 5) * 1.75 + 8) * 1.75 - 4) * b;
  CHECK(z.to_vector<double>()[3] == doctest::Approx(near_b + far_b));
}

TEST_CASE("an antialiased reduction averages a stretched triangle") {
  // Shrinking 4 to 2: output 0 sits at 0.5 with weights 1 − |j − 0.5| / 2 on 0, 1, 2.
  const double total = 0.75 + 0.75 + 0.25;
  check_near(interpolate(line({1, 2, 4, 8}), {2}, {.antialias = true}),
             {(0.75 * 1 + 0.75 * 2 + 0.25 * 4) / total, (0.25 * 2 + 0.75 * 4 + 0.75 * 8) / total});
}

TEST_CASE("constants stay constant under every interpolation") {
  const Tensor x = full({1, 2, 5, 7}, 3, {DType::f64, {}});
  for (const auto mode :
       {Interpolation::nearest, Interpolation::bilinear, Interpolation::bicubic}) {
    for (const Shape& size : {Shape{3, 3}, Shape{11, 2}, Shape{1, 1}}) {
      for (double v : interpolate(x, size, {.mode = mode}).to_vector<double>()) {
        CHECK(v == doctest::Approx(3));
      }
      if (mode == Interpolation::nearest) continue;
      for (double v : interpolate(x, size, {.mode = mode, .antialias = true}).to_vector<double>()) {
        CHECK(v == doctest::Approx(3));
      }
    }
  }
}

TEST_CASE("pixel_unshuffle undoes pixel_shuffle, whose first row alternates channels") {
  const Tensor x = samples::normal({2, 8, 3, 2});
  CHECK(pixel_unshuffle(pixel_shuffle(x, 2), 2).to_vector<double>() == x.to_vector<double>());
  check_near(pixel_shuffle(tensor({1, 2, 3, 4}, {1, 4, 1, 1}, DType::f64), 2), {1, 2, 3, 4});
}

TEST_CASE("grid_sample at the pixel centres gives the image back") {
  const Tensor x = tensor({1, 2, 3, 4, 5, 6}, {1, 1, 2, 3}, DType::f64);
  const Tensor centres = points({-1, -1, 0, -1, 1, -1, -1, 1, 0, 1, 1, 1});
  check_near(grid_sample(x, centres, {.align_corners = true}), {1, 2, 3, 4, 5, 6});
  const Tensor inner = points({-2.0 / 3, -0.5, 0, -0.5, 2.0 / 3, 0.5});
  check_near(grid_sample(x, inner), {1, 2, 6});
  check_near(grid_sample(x, points({0, 0}), {.align_corners = true}), {3.5});
}

TEST_CASE("grid_sample outside the image follows its padding") {
  const Tensor x = tensor({1, 2, 3, 4}, {1, 1, 1, 4}, DType::f64);
  const Tensor at = points({1.5, 0, -1.25, 0, 9, 0});  // pixel positions 4.5, −1 and 19.5
  check_near(grid_sample(x, at), {0, 0, 0});
  check_near(grid_sample(x, at, {.padding = GridPadding::border}), {4, 1, 4});
  // About the edges −0.5 and 3.5: 4.5 → 2.5, −1 → 0, 19.5 → 3.5, clamped to 3.
  check_near(grid_sample(x, at, {.padding = GridPadding::reflection}), {3.5, 1, 4});
}

TEST_CASE("grid_sample of coordinates that are not finite reads no pixel") {
  const Tensor x = ones({1, 1, 2, 2}, {DType::f64, {}});
  check_near(grid_sample(x, points({NAN, 0, INFINITY, 0})), {0, 0});
  const auto options = GridSampleOptions{.padding = GridPadding::border};
  check_near(grid_sample(x, points({NAN, 0, INFINITY, 0}), options), {1, 1});
}

TEST_CASE("padding modes continue a line as their names say") {
  const Tensor x = tensor({1, 2, 3}, {3}, DType::f64);
  check_near(pad(x, {2, 1}), {0, 0, 1, 2, 3, 0});
  check_near(pad(x, {1, 1}, PadMode::constant, 7), {7, 1, 2, 3, 7});
  check_near(pad(x, {2, 2}, PadMode::reflect), {3, 2, 1, 2, 3, 2, 1});
  check_near(pad(x, {2, 1}, PadMode::replicate), {1, 1, 1, 2, 3, 3});
  check_near(pad(x, {3, 2}, PadMode::circular), {1, 2, 3, 1, 2, 3, 1, 2});
  check_near(pad(x, {-1, 2}), {2, 3, 0, 0});
}

TEST_CASE("the first pair of a padding belongs to the last dimension") {
  CHECK(pad(ones({2, 3}), {1, 0, 2, 2}).shape() == Shape{6, 4});
}

TEST_CASE("roll turns each dimension by its shift") {
  const Tensor x = tensor({1, 2, 3, 4, 5, 6}, {2, 3}, DType::f64);
  check_near(roll(x, {1}, {1}), {3, 1, 2, 6, 4, 5});
  check_near(roll(x, {1, -1}, {0, 1}), {5, 6, 4, 2, 3, 1});
}
