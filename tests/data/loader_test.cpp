#include "tessera/data/loader.h"

#include <doctest/doctest.h>

#include <atomic>
#include <set>

#include "tessera/core/create.h"

using namespace tessera;

namespace {

// Answers the indices themselves and the seed it was asked with.
struct CountingDataset : Dataset {
  int64_t count;
  int64_t broken = -1;  // asking for this index throws
  mutable std::atomic<int64_t> calls = 0;
  explicit CountingDataset(int64_t n) : count(n) {}
  DataInfo info() const override { return {}; }
  int64_t size(Split) const override { return count; }
  Batch get(Split, std::span<const int64_t> indices, uint64_t seed) const override {
    ++calls;
    check_indices(indices, count, "counting");
    std::vector<int64_t> keys;
    for (int64_t i : indices) {
      check(i != broken, "counting: index {} is broken", i);
      keys.push_back(static_cast<int64_t>(mix(seed, static_cast<uint64_t>(i)) >> 2));
    }
    const auto n = static_cast<int64_t>(indices.size());
    return {{"index", from_values<int64_t>(indices, {n})}, {"key", from_values(keys, {n})}};
  }
};

std::vector<int64_t> next_values(Loader& loader) {
  const Batch batch = loader.next();
  auto values = batch.at("index").to_vector<int64_t>();
  const auto keys = batch.at("key").to_vector<int64_t>();
  values.insert(values.end(), keys.begin(), keys.end());
  return values;
}

}  // namespace

TEST_CASE("an epoch visits every index once, in another order than the one before") {
  const CountingDataset data(23);
  Loader loader(data, Split::train, {.batch = 4, .drop_last = false});
  CHECK(loader.steps_per_epoch() == 6);
  std::vector<std::vector<int64_t>> orders(2);
  for (auto& order : orders) {
    for (int64_t step = 0; step < loader.steps_per_epoch(); ++step) {
      const auto values = loader.next().at("index").to_vector<int64_t>();
      order.insert(order.end(), values.begin(), values.end());
    }
    CHECK(std::set<int64_t>(order.begin(), order.end()).size() == 23);
    CHECK(order.size() == 23);
  }
  CHECK(orders[0] != orders[1]);
}

TEST_CASE("a loader without shuffling keeps the order and can keep the short last batch") {
  const CountingDataset data(5);
  Loader all(data, Split::validation, {.batch = 3, .shuffle = false, .drop_last = false});
  CHECK(all.next().at("index").to_vector<int64_t>() == std::vector<int64_t>{0, 1, 2});
  CHECK(all.next().at("index").to_vector<int64_t>() == std::vector<int64_t>{3, 4});
  CHECK(all.next().at("index").to_vector<int64_t>() == std::vector<int64_t>{0, 1, 2});
  Loader whole(data, Split::validation, {.batch = 3, .shuffle = false});
  CHECK(whole.steps_per_epoch() == 1);
}

TEST_CASE("prefetch threads never change what comes out, and the position counts what was used") {
  const CountingDataset data(37);
  Loader inline_loader(data, Split::train, {.batch = 5, .seed = 9});
  for (int threads : {1, 2, 4}) {
    inline_loader.seek({0, 0});
    Loader loader(data, Split::train, {.batch = 5, .seed = 9, .threads = threads});
    for (int i = 0; i < 40; ++i) {
      REQUIRE(loader.position() == LoaderPosition{i / 7, i % 7});
      REQUIRE(next_values(loader) == next_values(inline_loader));
    }
  }
}

TEST_CASE("seek goes on exactly where another loader stood") {
  const CountingDataset data(31);
  for (int threads : {0, 2}) {
    Loader first(data, Split::train, {.batch = 4, .seed = 3, .threads = threads});
    for (int i = 0; i < 11; ++i) first.next();
    Loader second(data, Split::train, {.batch = 4, .seed = 3, .threads = threads});
    second.next();
    second.seek(first.position());
    for (int i = 0; i < 20; ++i) REQUIRE(next_values(first) == next_values(second));
  }
}

TEST_CASE("an exception of the dataset reaches the consumer and leaves the loader usable") {
  CountingDataset data(8);
  data.broken = 3;
  for (int threads : {0, 2}) {
    Loader loader(data, Split::train, {.batch = 2, .shuffle = false, .threads = threads});
    CHECK(loader.next().contains("index"));
    CHECK_THROWS_WITH_AS(loader.next(), doctest::Contains("index 3 is broken"), Error);
    CHECK(loader.next().at("index").to_vector<int64_t>() == std::vector<int64_t>{4, 5});
  }
}

TEST_CASE("a loader may be dropped while its threads work and makes only a few batches ahead") {
  const CountingDataset data(kEndless);
  for (int i = 0; i < 50; ++i) {
    Loader loader(data, Split::train, {.batch = 3, .threads = 3});
    if (i % 2) loader.next();
    if (i % 3) loader.seek({0, i});
  }
  CHECK(data.calls <= 50 * 3 * 4);
}

TEST_CASE("loader options and positions that cannot be are refused") {
  const CountingDataset data(5);
  CHECK_THROWS_WITH_AS(Loader(data, Split::train, {.batch = 6}),
                       doctest::Contains("5 elements, fewer than one batch of 6"), Error);
  CHECK_THROWS_WITH_AS(Loader(data, Split::train, {.batch = 0}), doctest::Contains("batch 0"),
                       Error);
  CHECK_THROWS_WITH_AS(Loader(data, Split::train, {.batch = 1, .threads = -1}),
                       doctest::Contains("threads -1"), Error);
  Loader loader(data, Split::train, {.batch = 2});
  CHECK_THROWS_WITH_AS(loader.seek({0, 2}), doctest::Contains("step 2"), Error);
  CHECK_THROWS_WITH_AS(loader.seek({int64_t{1} << 62, 0}), doctest::Contains("epoch"), Error);
}
