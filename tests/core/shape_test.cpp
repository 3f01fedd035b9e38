#include "tessera/core/shape.h"

#include <doctest/doctest.h>

#include "tessera/core/device.h"

using namespace tessera;

TEST_CASE("a shape is a short list") {
  Shape shape = {2, 3, 4};
  CHECK(shape.rank() == 3);
  CHECK(shape.numel() == 24);
  CHECK(Shape().numel() == 1);
  CHECK(Shape({2, 0}).numel() == 0);
  shape.insert(1, 5);
  CHECK(shape == Shape{2, 5, 3, 4});
  shape.insert(4, 6);
  CHECK(shape.back() == 6);
  shape.erase(0);
  CHECK(shape == Shape{5, 3, 4, 6});
  shape.pop_back();
  CHECK(shape == Shape{5, 3, 4});
  CHECK(to_string(shape) == "(5, 3, 4)");
  CHECK(to_string(Shape()) == "()");
  CHECK_THROWS_WITH_AS(Shape::filled(13, 1), doctest::Contains("more than 12"), Error);
}

TEST_CASE("dense strides multiply up from the back, past sizes of 0") {
  CHECK(contiguous_strides({2, 3, 4}) == Strides{12, 4, 1});
  CHECK(contiguous_strides({2, 0, 4}) == Strides{4, 4, 1});
  CHECK(contiguous_strides({}) == Strides{});
}

TEST_CASE("shapes broadcast from the back") {
  CHECK(broadcast_shapes({2, 3}, {3}, "op") == Shape{2, 3});
  CHECK(broadcast_shapes({1, 4}, {3, 1}, "op") == Shape{3, 4});
  CHECK(broadcast_shapes({}, {2}, "op") == Shape{2});
  CHECK(broadcast_shapes({0}, {1}, "op") == Shape{0});
  CHECK_THROWS_WITH_AS(broadcast_shapes({2, 3}, {2}, "op"),
                       "op: shapes do not broadcast: (2, 3) and (2) differ in dimension 1", Error);
  CHECK_THROWS_AS(broadcast_shapes({0}, {2}, "op"), Error);
}

TEST_CASE("dimensions count from both ends") {
  CHECK(normalize_dim(-1, 3, "op") == 2);
  CHECK(normalize_dim(0, 3, "op") == 0);
  CHECK_THROWS_WITH_AS(normalize_dim(3, 3, "op"), doctest::Contains("op: dimension 3"), Error);
  CHECK_THROWS_AS(normalize_dim(-4, 3, "op"), Error);
  CHECK_THROWS_AS(normalize_dim(0, 0, "op"), Error);
  CHECK(normalize_dims({-1, 0}, 3, "op") == Shape{0, 2});
  CHECK(normalize_dims({}, 2, "op") == Shape{0, 1});
  CHECK_THROWS_WITH_AS(normalize_dims({1, -1}, 2, "op"), doctest::Contains("name one twice"),
                       Error);
}

TEST_CASE("devices have names") {
  CHECK(device_from_name("cpu").is_cpu());
  CHECK(to_string(Device{}) == "cpu");
  CHECK(to_string(Device{Device::Kind::cuda, 1}) == "cuda:1");
  CHECK_THROWS_WITH_AS(device_from_name("gpu"), doctest::Contains("unknown name \"gpu\""), Error);
  CHECK_THROWS_WITH_AS(device_from_name("cuda:x"), doctest::Contains("no valid index"), Error);
}

TEST_CASE("check formats its message only when it fails") {
  CHECK_NOTHROW(check(true, "never {}", 1));
  CHECK_THROWS_WITH_AS(check(false, "op: saw {} and {}", 3, Shape{1, 2}), "op: saw 3 and (1, 2)",
                       Error);
  CHECK_THROWS_WITH_AS(fail("op: {:.1f}", 0.25), "op: 0.2", Error);
}
