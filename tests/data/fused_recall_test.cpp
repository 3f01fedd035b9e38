#include <doctest/doctest.h>

#include <map>

#include "support.h"

using namespace tessera;

namespace {

// Keys found in the pairs of a row, and what its questions ask for.
void check_row(const int64_t* tokens, const int64_t* targets, int64_t hops) {
  std::map<int64_t, int64_t> value_of;
  int queries = 0;
  for (int64_t t = 0; t < 256; ++t) {
    if (tokens[t] < 64) {
      CHECK(t < 64);
      CHECK(value_of.emplace(tokens[t] / 8, tokens[t] % 8).second);
    }
    const bool asked = tokens[t] >= 64 && tokens[t] < 72;
    CHECK(tokens[t] < 96);
    CHECK((targets[t] >= 0) == asked);
    if (!asked) continue;
    ++queries;
    CHECK(t >= 192);
    const int64_t first = value_of.at(tokens[t] - 64);
    CHECK(targets[t] == (hops == 1 ? first : value_of.at(first)));
  }
  CHECK(value_of.size() == 8);
  CHECK(queries == 8);
}

}  // namespace

TEST_CASE("fused_recall: pairs come first, questions last, and targets follow the hops") {
  for (const int64_t hops : {1, 2}) {
    const auto data =
        make_dataset(R"({"type": "fused_recall", "hops": )" + std::to_string(hops) + "}");
    CHECK(data->info().vocabulary == 96);
    CHECK(data->info().context == 256);
    CHECK(data->size(Split::train) == kEndless);
    const std::vector<int64_t> indices = {0, 5, int64_t{1} << 30};
    const Batch batch = data->get(Split::train, indices, 0);
    for (int64_t i = 0; i < 3; ++i) {
      check_row(batch.at("tokens").data<int64_t>() + i * 256,
                batch.at("targets").data<int64_t>() + i * 256, hops);
    }
  }
}

TEST_CASE("fused_recall: what does not fit into a quarter is refused") {
  CHECK_THROWS_WITH_AS(make_dataset(R"({"type": "fused_recall", "context": 31})"),
                       doctest::Contains("data.symbols: 8 pairs do not fit into a quarter of 31"),
                       Error);
  CHECK_THROWS_WITH_AS(make_dataset(R"({"type": "fused_recall", "queries": 65})"),
                       doctest::Contains("data.queries: 65 queries"), Error);
}
