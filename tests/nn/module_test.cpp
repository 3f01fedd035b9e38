#include "tessera/nn/module.h"

#include <doctest/doctest.h>

#include "tessera/autograd/ops/activation.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/core/create.h"
#include "tessera/core/random.h"
#include "tessera/nn/dropout.h"
#include "tessera/nn/linear.h"
#include "tessera/nn/norm.h"

using namespace tessera;

namespace {

struct Mlp2 : Module {
  Linear up, down;
  Mlp2(int64_t width, int64_t hidden) : up(width, hidden), down(hidden, width) {}
  Tensor operator()(const Tensor& x) {
    const Tensor h = gelu(up(x));
    probe("hidden", h);
    return down(h);
  }
  TESSERA_MEMBERS(up, down)
};

struct Stack : Module {
  std::vector<Mlp2> layers;
  std::unique_ptr<BatchNorm> norm = std::make_unique<BatchNorm>(4);
  Tensor scale = parameter(ones({4}));
  Tensor count = zeros({1});
  Stack() {
    for (int i = 0; i < 3; ++i) layers.emplace_back(4, 8);
  }
  Tensor operator()(const Tensor& x) {
    Tensor y = x;
    for (Mlp2& layer : layers) y = layer(y);
    return y;
  }
  void members(Members& m) override {
    m.list("layers, norm, scale", layers, norm, scale);
    m.buffer("count", count);
  }
};

struct Tied : Module {
  Embedding table{5, 3};
  Tensor head = table.weight;
  TESSERA_MEMBERS(table, head)
};

struct Forgetful : Module {
  Linear listed{2, 2};
  Linear forgotten{2, 2};
  TESSERA_MEMBERS(listed)
};

std::vector<std::string> names(const NamedTensors& list) {
  std::vector<std::string> result;
  for (const auto& [name, tensor] : list) result.push_back(name);
  return result;
}

}  // namespace

TEST_CASE("parameters are named by the dotted path of members, in listing order") {
  Stack stack;
  const auto all = names(stack.parameters());
  REQUIRE(all.size() == 15);
  CHECK(all[0] == "layers.0.up.weight");
  CHECK(all[11] == "layers.2.down.bias");
  CHECK(all[12] == "norm.weight");
  CHECK(all[14] == "scale");
  CHECK(names(stack.buffers()) ==
        std::vector<std::string>{"norm.running_mean", "norm.running_var", "count"});
  CHECK(stack.parameter_count() == 3 * (4 * 8 + 8 + 8 * 4 + 4) + 8 + 4);
}

TEST_CASE("a shared tensor is one parameter and stays shared when the module moves") {
  Tied tied;
  CHECK(names(tied.parameters()) == std::vector<std::string>{"table.weight"});
  tied.to(DType::f64);
  CHECK(tied.head.is_same(tied.table.weight));
  CHECK(tied.head.dtype() == DType::f64);
  CHECK(tied.head.requires_grad());
}

TEST_CASE("a forgotten member shows as a parameter that was born but is not listed") {
  const int64_t before = parameters_born();
  Forgetful module;
  const int64_t born = parameters_born() - before;
  CHECK(born == 4);
  CHECK(module.parameters().size() == 2);
}

TEST_CASE("a state dict round trip restores every value, buffers included") {
  RandomScope scope(3);
  Stack a;
  Stack b;
  const Tensor x = rand({2, 4});
  CHECK(a(x).to_vector<float>() != b(x).to_vector<float>());
  a.count.data<float>()[0] = 7;
  b.load_state(a.state());
  CHECK(a(x).to_vector<float>() == b(x).to_vector<float>());
  CHECK(b.count.item() == 7);
}

TEST_CASE("load_state names missing, surplus and wrongly shaped tensors and changes nothing") {
  Stack stack;
  NamedTensors state = stack.state();
  const auto before = stack.scale.to_vector<float>();
  for (auto& [name, tensor] : state) tensor = full(tensor.shape(), 9);
  state[0].first = "layers.0.upp.weight";
  state[1].second = ones({3});
  std::string message;
  try {
    stack.load_state(state);
  } catch (const Error& error) {
    message = error.what();
  }
  CHECK(message.find("\"layers.0.up.weight\" is missing") != std::string::npos);
  CHECK(message.find("\"layers.0.upp.weight\" is not in the model") != std::string::npos);
  CHECK(message.find("has shape (3), the model wants (8)") != std::string::npos);
  CHECK(stack.scale.to_vector<float>() == before);
}

TEST_CASE("train and eval reach every module below") {
  Stack stack;
  stack.eval();
  CHECK_FALSE(stack.layers[2].down.training());
  CHECK_FALSE(stack.norm->training());
  stack.train();
  CHECK(stack.layers[0].up.training());
}

TEST_CASE(
    "probes are heard by their dotted path while a scope is open, and cost nothing otherwise") {
  Stack stack;
  std::vector<std::string> heard;
  {
    ProbeScope scope(stack, [&](const std::string& path, const Tensor& value) {
      heard.push_back(path + " " + to_string(value.shape()));
    });
    stack(rand({2, 4}));
  }
  stack(rand({2, 4}));
  CHECK(heard == std::vector<std::string>{"layers.0.hidden (2, 8)", "layers.1.hidden (2, 8)",
                                          "layers.2.hidden (2, 8)"});
}

TEST_CASE("batch statistics move in training mode only") {
  BatchNorm norm(2);
  const Tensor x = rand({8, 2});
  norm.eval();
  norm(x);
  CHECK(norm.running_mean.to_vector<float>() == std::vector<float>{0, 0});
  norm.train();
  norm(x);
  CHECK(norm.running_mean.to_vector<float>() != std::vector<float>{0, 0});
}

TEST_CASE("dropout is the identity in evaluation and keeps the mean in training") {
  RandomScope scope(5);
  Dropout drop(0.25);
  const Tensor x = ones({100, 100});
  const double mean = sum(drop(x)).item() / 1e4;
  CHECK(mean == doctest::Approx(1).epsilon(0.03));
  drop.eval();
  CHECK(drop(x).to_vector<float>() == x.to_vector<float>());
}

TEST_CASE("converting parameters alone leaves what learns by small moves in full precision") {
  BatchNorm norm(3);
  norm.parameters_to(DType::bf16);
  CHECK(norm.weight.dtype() == DType::bf16);
  CHECK(norm.weight.requires_grad());
  CHECK(norm.running_mean.dtype() == DType::f32);
}
