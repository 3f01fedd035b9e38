#include <doctest/doctest.h>

#include <numeric>
#include <set>

#include "tessera/config/json.h"
#include "tessera/config/registry.h"
#include "tessera/core/file.h"
#include "tessera/data/dataset.h"

#include "support.h"

using namespace tessera;

namespace {

std::unique_ptr<Dataset> open(const Json& config, uint64_t seed = 1) {
  Json json = config;
  json["type"] = "two_task_ratings";
  return from_json<Choice<Dataset>>(json).build(DataContext{".", seed});
}

Batch all(const Dataset& data, Split split) {
  std::vector<int64_t> indices(static_cast<size_t>(data.size(split)));
  std::iota(indices.begin(), indices.end(), 0);
  return data.get(split, indices, 1);
}

}  // namespace

TEST_CASE("generated ratings are different pairs, rated where they are watched") {
  const auto data = open({{"users", 30}, {"items", 20}, {"pairs", 600}});
  CHECK(data->size(Split::test) == 60);
  CHECK(data->size(Split::validation) == 67);
  CHECK(data->size(Split::train) == 473);
  CHECK(data->info().users == 30);
  std::set<std::pair<int64_t, int64_t>> seen;
  int64_t watched = 0;
  for (const Split split : {Split::train, Split::validation, Split::test}) {
    const Batch b = all(*data, split);
    const auto u = b.at("users").to_vector<int64_t>(), i = b.at("items").to_vector<int64_t>();
    const auto w = b.at("watch").to_vector<float>(), r = b.at("rating").to_vector<float>();
    for (size_t k = 0; k < u.size(); ++k) {
      CHECK(seen.emplace(u[k], i[k]).second);
      CHECK((w[k] == 1) == (r[k] > 0));
      watched += w[k] == 1;
    }
  }
  CHECK(seen.size() == 600);
  CHECK(watched > 200);
  CHECK(watched < 400);
  CHECK_THROWS_WITH_AS(open({{"users", 3}, {"items", 3}, {"pairs", 10}}),
                       doctest::Contains("data.pairs"), Error);
}

TEST_CASE("a rating file gives as many pairs that were not watched") {
  const ScratchFolder folder;
  std::string text = "userId,movieId,rating,timestamp\n";
  for (int user = 1; user <= 10; ++user) {
    for (int item = 0; item < 8; ++item) {
      text += fmt::format("{},{},{},0\n", user, 100 + 7 * ((user + item) % 40), 0.5 + item * 0.5);
    }
  }
  write_file_atomic(folder.path / "ratings.csv", text);
  const Json config = {{"source", "movielens"}, {"path", folder.path.string()}};
  const auto data = open(config), again = open(config);
  CHECK(data->info().users == 10);
  double watched = 0, pairs = 0;
  for (const Split split : {Split::train, Split::validation, Split::test}) {
    const Batch b = all(*data, split);
    for (const float w : b.at("watch").to_vector<float>()) watched += w;
    pairs += static_cast<double>(data->size(split));
    CHECK(b.at("items").to_vector<int64_t>() ==
          all(*again, split).at("items").to_vector<int64_t>());
  }
  CHECK(watched == 80);
  CHECK(pairs == 160);
}

TEST_CASE("three tables without header lines are read as they are") {
  const ScratchFolder folder;
  for (const char* name : {"shared_features", "watch_targets", "rating_targets"}) {
    std::filesystem::create_directories(folder.path / name);
    for (const char* split : {"train", "val", "test"}) {
      const std::string text = std::string(name) == "shared_features" ? "0,3\n2.0,1\n"
                               : std::string(name) == "watch_targets" ? "1\n0\n"
                                                                      : "4.5\n0\n";
      write_file_atomic(folder.path / name / fmt::format("{}_{}.csv", name, split), text);
    }
  }
  const Json config = {{"source", "csv"}, {"path", folder.path.string()}};
  const auto data = open(config);
  CHECK(data->info().users == 3);
  CHECK(data->info().items == 4);
  const Batch b = all(*data, Split::validation);
  CHECK(b.at("users").to_vector<int64_t>() == std::vector<int64_t>{0, 2});
  CHECK(b.at("rating").to_vector<float>() == std::vector<float>{4.5, 0});
  write_file_atomic(folder.path / "watch_targets" / "watch_targets_val.csv", "1\n");
  CHECK_THROWS_WITH_AS(open(config), doctest::Contains("1 rows"), Error);
  write_file_atomic(folder.path / "watch_targets" / "watch_targets_val.csv", "1\nyes\n");
  CHECK_THROWS_WITH_AS(open(config), doctest::Contains("no number"), Error);
}
