#include "tessera/core/print.h"

#include <doctest/doctest.h>

#include <cmath>
#include <sstream>

#include "tessera/core/create.h"
#include "tessera/core/view.h"

using namespace tessera;

TEST_CASE("rows align and brackets nest") {
  CHECK(to_string(tensor({1, 2, 3, 4.5, -5, 6}, {2, 3})) ==
        "[[ 1.0,  2.0,  3.0],\n [ 4.5, -5.0,  6.0]]");
  CHECK(to_string(tensor({1, 2, 3, 4}, {2, 1, 2})) == "[[[1., 2.]],\n\n [[3., 4.]]]");
  CHECK(to_string(scalar(3.14159)) == "3.142");
  std::ostringstream stream;
  stream << tensor({0.5}, {1});
  CHECK(stream.str() == "[0.5]");
}

TEST_CASE("the dtype and shape follow unless the tensor is plain f32") {
  CHECK(to_string(arange(0, 12, 5)) == "[ 0,  5, 10] i64 (3)");
  CHECK(to_string(tensor({1, 0}, {2}, DType::boolean)) == "[ true, false] bool (2)");
  CHECK(to_string(tensor({1.5}, {1}, DType::bf16)) == "[1.5] bf16 (1)");
  CHECK(to_string(tensor({7}, {}, DType::u8)) == "7 u8 ()");
  CHECK(to_string(empty({2, 0})) == "[] f32 (2, 0)");
  CHECK(to_string(Tensor()) == "undefined");
}

TEST_CASE("wide ranges are scientific, and nan and inf are named") {
  CHECK(to_string(tensor({1e-6, 1}, {2})) == "[1.000e-06, 1.000e+00]");
  CHECK(to_string(tensor({1e9, 0}, {2})) == "[1.000e+09, 0.000e+00]");
  CHECK(to_string(tensor({NAN, 1, -INFINITY, 0.25}, {4})) == "[ nan, 1.00, -inf, 0.25]");
  CHECK(to_string(tensor({NAN, INFINITY}, {2})) == "[nan, inf]");
  CHECK(to_string(tensor({123456, 12345}, {2})) == "[123456.,  12345.]");
}

TEST_CASE("views print what they show") {
  const Tensor x = views::transpose(tensor({1, 2, 3, 4}, {2, 2}), 0, 1);
  CHECK(to_string(x) == "[[1., 3.],\n [2., 4.]]");
  CHECK(to_string(views::slice(x, 0, 1, -1, -1)) == "[[2., 4.],\n [1., 3.]]");
}

TEST_CASE("large tensors show their edges and read nothing else") {
  CHECK(to_string(arange(0, 2000)) == "[   0,    1,    2, …, 1997, 1998, 1999] i64 (2000)");
  // A petabyte of one repeated element: whoever touched it all would not come back.
  const Tensor huge = views::expand(ones({1, 1}), {int64_t{1} << 25, int64_t{1} << 25});
  const std::string text = to_string(huge);
  CHECK(text.starts_with("[[1., 1., 1., …, 1., 1., 1.],\n"));
  CHECK(text.find("],\n …,\n [1.") != std::string::npos);
  CHECK(text.ends_with("] f32 (33554432, 33554432)"));
  CHECK(text.size() < 400);
  const Tensor deep = views::expand(scalar(2), Shape::filled(12, 5));
  CHECK(to_string(deep).size() < 100'000);
}

TEST_CASE("long rows break into lines of bounded width") {
  std::istringstream lines(to_string(arange(0, 300)));
  std::string line;
  int count = 0;
  while (std::getline(lines, line)) {
    CHECK(line.size() <= 90);
    ++count;
  }
  CHECK(count > 10);
}
