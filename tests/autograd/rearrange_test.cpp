#include "tessera/autograd/ops/rearrange.h"

#include <doctest/doctest.h>

#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/registry.h"
#include "tessera/core/create.h"

using namespace tessera;

TEST_CASE("rearrange splits, moves and merges axes; there and back gives the same tensor") {
  const Tensor x = samples::normal({2, 5, 12});
  const Tensor heads = rearrange("b n (h d) -> b h n d", x, {{"h", 3}});
  CHECK(heads.shape() == Shape{2, 3, 5, 4});
  CHECK(heads.storage() == x.storage());
  CHECK(heads.to_vector<double>() == transpose(reshape(x, {2, 5, 3, 4}), 1, 2).to_vector<double>());
  CHECK(rearrange("b h n d -> b n (h d)", heads).to_vector<double>() == x.to_vector<double>());
  CHECK(rearrange("... c -> c ...", x).shape() == Shape{12, 2, 5});
  CHECK(rearrange("b ... -> b (...) 1", x).shape() == Shape{2, 60, 1});
}

TEST_CASE("rearrange cuts an image into patches, row by row") {
  const Tensor image = arange(0, 16, 1);
  const Tensor patches =
      rearrange("(r p c q) -> (r c) (p q)", image, {{"r", 2}, {"p", 2}, {"c", 2}});
  CHECK(patches.to_vector<int64_t>() ==
        std::vector<int64_t>{0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15});
}

TEST_CASE("repeat adds axes anywhere, of given sizes or written as numbers") {
  const Tensor x = tensor({1, 2}, {2});
  CHECK(repeat("w -> (w 2)", x).to_vector<float>() == std::vector<float>{1, 1, 2, 2});
  CHECK(repeat("w -> (n w)", x, {{"n", 2}}).to_vector<float>() == std::vector<float>{1, 2, 1, 2});
  CHECK(repeat("w -> n w", x, {{"n", 3}}).storage() == x.storage());
}

TEST_CASE("reduce takes sums, means and extrema over what is missing on the right") {
  const Tensor x = tensor({1, 2, 3, 4, 5, 6, 7, 8}, {2, 4});
  CHECK(reduce("a b -> a", x, "sum").to_vector<float>() == std::vector<float>{10, 26});
  CHECK(reduce("a (b s) -> a b", x, "mean", {{"s", 2}}).to_vector<float>() ==
        std::vector<float>{1.5f, 3.5f, 5.5f, 7.5f});
  CHECK(reduce("a b -> b", x, "max").to_vector<float>() == std::vector<float>{5, 6, 7, 8});
  CHECK(reduce("a b ->", x, "min").item() == 1);
  CHECK(reduce("a b -> b a", x, "max").to_vector<float>() == transpose(x, 0, 1).to_vector<float>());
}

TEST_CASE("errors of rearrange quote the pattern and say what does not fit") {
  const Tensor x = samples::normal({2, 6});
  CHECK_THROWS_WITH_AS(rearrange("b (h d) -> b h d", x, {{"h", 4}}),
                       doctest::Contains("rearrange: \"b (h d) -> b h d\": (h d) does not divide a "
                                         "dimension of size 6"),
                       Error);
  CHECK_THROWS_WITH_AS(rearrange("b (h d) -> b h d", x),
                       doctest::Contains("give a size for \"h\" or \"d\""), Error);
  CHECK_THROWS_WITH_AS(rearrange("a b -> a b 2", x), doctest::Contains("use repeat"), Error);
  CHECK_THROWS_WITH_AS(rearrange("a b -> b", x), doctest::Contains("use reduce"), Error);
  CHECK_THROWS_WITH_AS(rearrange("a b c -> c", x), doctest::Contains("shape (2, 6)"), Error);
  CHECK_THROWS_WITH_AS(reduce("a b -> a", x, "median"), doctest::Contains("\"median\""), Error);
}
