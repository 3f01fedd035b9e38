#include "tessera/analysis/picture.h"

#include <doctest/doctest.h>

#include <cmath>

#include "tessera/attention/dense.h"
#include "tessera/attention/window.h"
#include "tessera/core/create.h"
#include "tessera/core/random.h"
#include "tessera/models/transformer.h"

using namespace tessera;

namespace {

std::unique_ptr<Model> tiny_model(const std::string& attention) {
  RandomScope scope(3);
  Transformer::Config config;
  config.width = 16;
  config.depth = 2;
  config.heads = 2;
  config.attention = Choice<Attention>(attention);
  return std::make_unique<Transformer>(config, DataInfo{.vocabulary = 11, .context = 12});
}

}  // namespace

TEST_CASE("weights of attention are what the values are multiplied with, whatever the mask") {
  for (const std::string attention : {"dense", "window"}) {
    const auto model = tiny_model(attention);
    model->eval();
    const Tensor tokens = from_values(std::vector<int64_t>{1, 2, 3, 4, 5, 6, 7, 8, 9}, {1, 9});
    CHECK(observe(*model, tokens, {".weights"}).empty());
    const WeightsScope scope;
    const auto seen = observe(*model, tokens, {".weights"});
    REQUIRE(seen.size() == 2);
    CHECK(seen[0].first == "blocks.0.attention.weights");
    CHECK(seen[0].second.shape() == Shape{1, 2, 9, 9});
    const auto w = seen[0].second.to_vector<double>();
    for (size_t row = 0; row < 18; ++row) {
      double sum = 0;
      for (size_t j = 0; j < 9; ++j) {
        const double value = w[row * 9 + j];
        CHECK((j <= row % 9 ? value > 0 : value == 0));
        sum += value;
      }
      CHECK(sum == doctest::Approx(1));
    }
  }
}

TEST_CASE("modules are found by type, with their paths") {
  const auto model = tiny_model("dense");
  const auto found = modules_of<DenseAttentionLayer>(*model);
  REQUIRE(found.size() == 2);
  CHECK(found[1].first == "blocks.1.attention");
  CHECK(modules_of<WindowAttention>(*model).empty());
}
