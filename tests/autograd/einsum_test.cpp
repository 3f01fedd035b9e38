#include "tessera/autograd/ops/einsum.h"

#include <doctest/doctest.h>

#include <map>

#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/registry.h"
#include "tessera/autograd/tape.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/random.h"

using namespace tessera;

namespace {

// Σ over all axes by counting through them, one letter per axis.
std::vector<double> by_loops(const std::vector<std::string>& terms, const std::string& output,
                             const TensorList& operands) {
  std::map<char, int64_t> sizes;
  for (size_t o = 0; o < terms.size(); ++o) {
    for (size_t d = 0; d < terms[o].size(); ++d) {
      sizes[terms[o][d]] = operands[o].shape()[static_cast<int64_t>(d)];
    }
  }
  int64_t total = 1;
  for (const auto& [axis, size] : sizes) total *= size;
  const auto flat = [&](const std::string& term, std::map<char, int64_t>& at) {
    int64_t index = 0;
    for (char axis : term) index = index * sizes[axis] + at[axis];
    return static_cast<size_t>(index);
  };
  int64_t count = 1;
  for (char axis : output) count *= sizes[axis];
  std::vector<double> result(static_cast<size_t>(count), 0);
  std::vector<std::vector<double>> values;
  for (const Tensor& x : operands) values.push_back(x.to_vector<double>());
  for (int64_t step = 0; step < total; ++step) {
    std::map<char, int64_t> at;
    int64_t rest = step;
    for (const auto& [axis, size] : sizes) {
      at[axis] = rest % size;
      rest /= size;
    }
    double product = 1;
    for (size_t o = 0; o < terms.size(); ++o) product *= values[o][flat(terms[o], at)];
    result[flat(output, at)] += product;
  }
  return result;
}

std::string some_letters(Generator& random, int64_t most, const std::string& from) {
  std::string letters;
  for (int64_t n = random.below(most + 1); n > 0; --n) {
    letters += from[static_cast<size_t>(random.below(static_cast<int64_t>(from.size())))];
  }
  return letters;
}

}  // namespace

TEST_CASE("einsum equals nested loops on random patterns, with diagonals and strided operands") {
  Generator random(17);
  const std::map<char, int64_t> sizes = {{'a', 2}, {'b', 3}, {'c', 1}, {'d', 4}, {'e', 2}};
  for (int round = 0; round < 300; ++round) {
    std::vector<std::string> terms;
    TensorList operands;
    std::string used;
    for (int64_t n = 1 + random.below(3); n > 0; --n) {
      terms.push_back(some_letters(random, 4, "abcde"));
      used += terms.back();
      Shape shape;
      for (char axis : terms.back()) shape.push_back(sizes.at(axis));
      const Tensor x = samples::normal(shape, static_cast<uint64_t>(round * 4 + n));
      operands.push_back(random.below(2) == 0 ? x : samples::strided(x));
    }
    std::string output;
    if (!used.empty()) {
      for (char axis : some_letters(random, 4, used)) {
        if (output.find(axis) == std::string::npos) output += axis;
      }
    }
    const std::string pattern = fmt::format("{}->{}", fmt::join(terms, ","), output);
    CAPTURE(pattern);
    const auto ours = einsum(pattern, operands).to_vector<double>();
    const auto plain = by_loops(terms, output, operands);
    REQUIRE(ours.size() == plain.size());
    for (size_t i = 0; i < ours.size(); ++i) {
      CHECK(ours[i] == doctest::Approx(plain[i]).epsilon(1e-10));
    }
  }
}

TEST_CASE("einsum reads words and letters alike, and an omitted result like NumPy") {
  const Tensor q = samples::normal({2, 3, 4, 5});
  const Tensor k = samples::normal({2, 3, 6, 5}, 1);
  const auto words =
      einsum("batch head i dim, batch head j dim -> batch head i j", q, k).to_vector<double>();
  CHECK(words == einsum("bhid,bhjd->bhij", {q, k}).to_vector<double>());
  CHECK(words == einsum("bhid, bhjd -> bhij", q, k).to_vector<double>());
  CHECK(einsum("jd,ij", samples::normal({3, 4}), samples::normal({2, 3})).shape() == Shape{4, 2});
  CHECK(einsum("ba", samples::normal({2, 3})).shape() == Shape{3, 2});
  CHECK(einsum("ii", samples::normal({3, 3})).shape() == Shape{});
}

TEST_CASE("einsum of strided heads makes no copies, and permutations and diagonals are views") {
  const Tensor packed = samples::normal({2, 7, 3, 4});  // (B, T, H, D)
  const int64_t before = kernels::contiguous_bytes();
  const Tensor scores = einsum("b i h d, b j h d -> b h i j", packed, packed);
  CHECK(scores.shape() == Shape{2, 3, 7, 7});
  CHECK(kernels::contiguous_bytes() == before);
  CHECK(einsum("b i h d -> h d b i", packed).storage() == packed.storage());
  CHECK(einsum("b i i -> i b", samples::normal({2, 3, 3})).shape() == Shape{3, 2});
}

TEST_CASE("ellipses of different lengths broadcast from the right") {
  const Tensor a = samples::normal({5, 1, 2, 3});
  const Tensor b = samples::normal({4, 3, 2}, 1);
  const Tensor c = einsum("...ij,...jk->...ik", a, b);
  CHECK(c.shape() == Shape{5, 4, 2, 2});
  const Tensor one = einsum("ij,jk->ik", select(select(a, 0, 3), 0, 0), select(b, 0, 2));
  CHECK(select(select(c, 0, 3), 0, 2).to_vector<double>() == one.to_vector<double>());
}

TEST_CASE("errors of einsum quote the pattern and say what does not fit") {
  const Tensor x = samples::normal({2, 3});
  CHECK_THROWS_WITH_AS(
      einsum("i j, j k -> i k", x, x),
      doctest::Contains("einsum: \"i j, j k -> i k\": axis \"j\" has sizes 3 and 2"), Error);
  CHECK_THROWS_WITH_AS(einsum("ijk->i", x), doctest::Contains("names 3 dimensions"), Error);
  CHECK_THROWS_WITH_AS(einsum("ij,jk->ik", x), doctest::Contains("2 terms for 1 operands"), Error);
  CHECK_THROWS_WITH_AS(einsum("ij->k", x), doctest::Contains("is in no operand"), Error);
}
