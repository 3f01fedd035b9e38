#include "tessera/autograd/tape.h"

#include <doctest/doctest.h>

#include "tessera/autograd/custom.h"
#include "tessera/autograd/gradcheck.h"
#include "tessera/autograd/op.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/matmul.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/fill.h"
#include "tessera/core/random.h"

using namespace tessera;

namespace {

Tensor leaf(std::initializer_list<double> values) {
  return tensor(values, {static_cast<int64_t>(values.size())}, DType::f64).set_requires_grad();
}

// An op whose backward is wrong by design, in its last entry.
struct WrongSquare {
  static constexpr std::string_view name = "wrong_square";
  Tensor forward(Forward& f, const Tensor& x) const {
    f.save(x);
    return x * x;
  }
  void backward(Backward& b) const {
    const Tensor x = b.saved(0);
    const Tensor slope = x * 2;
    const Tensor last = slice(slope, 0, x.size(0) - 1);
    kernels::fill(last, 1.5);
    b.add(0, b.grad() * slope);
  }
};

}  // namespace

TEST_CASE("backward leaves the gradient it was given as it was") {
  Tensor x = tensor({1, 2, 3, 4}, {2, 2});
  Tensor w = tensor({1, 1, 0, 2}, {2, 2});
  x.set_requires_grad();
  w.set_requires_grad();
  // x receives the given gradient itself first, and then a product that is added to it.
  const Tensor y = matmul(x, w) + x;
  const Tensor given = ones_like(y);
  backward({y}, {given});
  CHECK(given.to_vector<float>() == std::vector<float>(4, 1.0f));
  CHECK(x.grad().to_vector<float>() == std::vector<float>{3, 3, 3, 3});
}

TEST_CASE("gradients of leaves add up over uses and over backward calls") {
  const Tensor x = leaf({1, 2, 3});
  const Tensor y = sum(x * x + x * 3);
  y.backward();
  CHECK(x.grad().to_vector<double>() == std::vector<double>{5, 7, 9});
  sum(x).backward();
  CHECK(x.grad().to_vector<double>() == std::vector<double>{6, 8, 10});
}

TEST_CASE("a gradient that reaches two inputs is not changed through one of them") {
  const Tensor a = leaf({1});
  const Tensor b = leaf({2});
  const Tensor s = a + b;      // both get the very same gradient tensor
  sum(s + a * 10).backward();  // and a gets more
  CHECK(a.grad().item() == 11);
  CHECK(b.grad().item() == 1);
}

TEST_CASE("a second backward through a freed history is refused and retain_graph allows it") {
  const Tensor x = leaf({1, 2});
  const Tensor y = sum(x * x);
  y.backward({}, true);
  y.backward();
  CHECK(x.grad().to_vector<double>() == std::vector<double>{4, 8});
  CHECK_THROWS_WITH_AS(y.backward(), doctest::Contains("freed by an earlier backward"), Error);
}

TEST_CASE("a saved tensor that is changed in place is noticed") {
  const Tensor x = leaf({1, 2});
  const Tensor factor = tensor({3, 4}, {2}, DType::f64);
  const Tensor y = sum(x * factor);
  kernels::fill(factor, 0);
  factor.bump_version();
  CHECK_THROWS_WITH_AS(y.backward(), doctest::Contains("changed in place"), Error);
}

TEST_CASE("outputs without history and outputs of several elements are refused with the reason") {
  CHECK_THROWS_WITH_AS(ones({1}).backward(), doctest::Contains("does not depend on any"), Error);
  const Tensor x = leaf({1, 2});
  CHECK_THROWS_WITH_AS((x * x).backward(), doctest::Contains("needs a grad_output"), Error);
}

TEST_CASE("grad leaves grad() alone and can be differentiated again") {
  const Tensor x = leaf({2});
  const Tensor y = x * x * x;
  const Tensor first = grad({y}, {x}, {}, {.create_graph = true})[0];
  CHECK(first.item() == 12);
  const Tensor second = grad({first}, {x})[0];
  CHECK(second.item() == 12);
  CHECK_FALSE(x.grad().defined());
}

TEST_CASE("NoGrad records nothing, and stop_gradient cuts history") {
  const Tensor x = leaf({2});
  {
    NoGrad off;
    CHECK_FALSE((x * x).requires_grad());
  }
  const Tensor y = x * stop_gradient(x);
  y.backward();
  CHECK(x.grad().item() == 2);
}

TEST_CASE("straight_through takes its value from one tensor and its gradient from the other") {
  const Tensor x = leaf({0.3, 0.7});
  const Tensor hard = tensor({0, 1}, {2}, DType::f64);
  const Tensor y = straight_through(hard, x * 2);
  CHECK(y.to_vector<double>() == std::vector<double>{0, 1});
  sum(y).backward();
  CHECK(x.grad().to_vector<double>() == std::vector<double>{2, 2});
}

TEST_CASE("hooks see the complete gradient of intermediate tensors and of leaves") {
  const Tensor x = leaf({1, 2});
  const Tensor h = x * 2;
  std::vector<double> seen;
  register_hook(h, [&](const Tensor& g) { seen = g.to_vector<double>(); });
  int leaf_calls = 0;
  register_hook(x, [&](const Tensor&) { ++leaf_calls; });
  sum(h * 3 + h).backward();
  CHECK(seen == std::vector<double>{4, 4});
  CHECK(leaf_calls == 1);
}

TEST_CASE("a chain of a hundred thousand ops is freed and walked without deep recursion") {
  const Tensor x = leaf({1});
  {
    Tensor dropped = x;
    for (int i = 0; i < 100000; ++i) dropped = dropped + 1;
  }
  Tensor y = x;
  for (int i = 0; i < 100000; ++i) y = y + 1;
  y.backward();
  CHECK(x.grad().item() == 1);
}

TEST_CASE(
    "checkpoint gives the same gradients, repeats random numbers and says that it runs again") {
  const Tensor x = leaf({1, 2, 3});
  const Tensor w = leaf({4, 5, 6});
  int runs = 0;
  int again = 0;
  const Segment fn = [&](const TensorList& in) {
    ++runs;
    again += recomputing();
    const Tensor noise = empty({3}, {DType::f64, {}});
    kernels::uniform(noise, 0, 1, RandomScope::next_key());
    return TensorList{in[0] * w * noise};
  };
  RandomScope scope(7, 3);
  sum(fn({x})[0]).backward();
  const auto gx = x.grad().to_vector<double>();
  const auto gw = w.grad().to_vector<double>();
  x.set_grad({});
  w.set_grad({});
  RandomScope same(7, 3);
  const Tensor y = checkpoint(fn, {x})[0];
  RandomScope::next_key();  // draws between forward and backward do not disturb it
  sum(y).backward();
  CHECK(x.grad().to_vector<double>() == gx);
  CHECK(w.grad().to_vector<double>() == gw);
  CHECK(runs == 3);
  CHECK(again == 1);
}

TEST_CASE("gradcheck names the entry of a wrong derivative") {
  const TensorList x = {tensor({1, 2, 3}, {3}, DType::f64)};
  const auto result =
      gradcheck([](const TensorList& in) { return TensorList{apply(WrongSquare{}, in[0])}; }, x);
  CHECK_FALSE(result.ok);
  CHECK(doctest::String(result.message.c_str()) == doctest::Contains("input 0 [2]"));
  const auto right = gradcheck([](const TensorList& in) { return TensorList{in[0] * in[0]}; }, x);
  CHECK(right.ok);
  CHECK(right.entries == 3);
}

TEST_CASE("gradcheck moves away from kinks and still finds wrong derivatives beside them") {
  const TensorList at_kink = {tensor({0, 1}, {2}, DType::f64)};
  auto absolute = [](const TensorList& in) {
    const Tensor positive = tensor({1, 1}, {2}, DType::f64);
    return TensorList{in[0] * in[0] / (in[0] * in[0] + 1e-30) * positive};
  };
  CHECK(gradcheck(absolute, {tensor({1, 2}, {2}, DType::f64)}).ok);
  const auto wrong = gradcheck(
      [](const TensorList& in) { return TensorList{apply(WrongSquare{}, in[0])}; }, at_kink);
  CHECK_FALSE(wrong.ok);
}
