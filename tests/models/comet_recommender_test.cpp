#include "tessera/models/comet_recommender.h"

#include <doctest/doctest.h>

#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/grouped_matmul.h"
#include "tessera/config/fields.h"
#include "tessera/config/json.h"
#include "tessera/core/create.h"
#include "tessera/core/random.h"
#include "tessera/tests/support.h"

using namespace tessera;

namespace {

constexpr int64_t kUsers = 9, kItems = 7, kExperts = 6;

std::unique_ptr<CometRecommender> make(const Json& gate, int64_t k = 2) {
  RandomScope scope(3);
  const auto c = from_json<CometRecommender::Config>({{"embedding", 4},
                                                      {"experts", kExperts},
                                                      {"k", k},
                                                      {"width", 5},
                                                      {"dropout", 0},
                                                      {"gate", gate}});
  DataInfo info;
  info.users = kUsers;
  info.items = kItems;
  return std::make_unique<CometRecommender>(c, info);
}

struct Pairs {
  Tensor users, items;
};

Pairs pairs(int64_t count) {
  RandomScope scope(4);
  return {randint(0, kUsers, {count}), randint(0, kItems, {count})};
}

}  // namespace

TEST_CASE(
    "a recommender computes an expert only for pairs to which a gate of either task sends it") {
  auto m = make({{"type", "topk"}});
  const Pairs p = pairs(50);
  std::vector<Tensor> weights;
  ProbeScope probes(*m, [&](const std::string& path, const Tensor& w) {
    if (path == "weights") weights.push_back(w.detach());
  });
  const int64_t before = grouped_matmul_rows();
  m->scores(p.users, p.items, {});
  REQUIRE(weights.size() == 2);
  int64_t wanted = 0;
  for (const double w : (weights[0] + weights[1]).to_vector<double>()) wanted += w > 0;
  CHECK(grouped_matmul_rows() - before == wanted);
  CHECK(wanted >= 100);
  CHECK(wanted <= 200);
}

TEST_CASE("the hash gate of a recommender depends on the user alone") {
  auto m = make({{"type", "hash"}}, 1);
  std::vector<Tensor> weights;
  ProbeScope probes(*m, [&](const std::string& path, const Tensor& w) {
    if (path == "weights") weights.push_back(w.detach());
  });
  const Tensor user = full({kItems}, 5, {DType::i64, {}});
  m->scores(user, arange(0, kItems), {});
  const auto w = weights.at(0).to_vector<float>();
  for (int64_t i = kExperts; i < kExperts * kItems; ++i) {
    CHECK(w[static_cast<size_t>(i)] == w[static_cast<size_t>(i % kExperts)]);
  }
}

TEST_CASE("a recommender refuses data without users and more choices than experts") {
  CHECK_THROWS_WITH_AS(CometRecommender(CometRecommender::Config{}, DataInfo{}),
                       doctest::Contains("users and items"), Error);
  CHECK_THROWS_WITH_AS(make({{"type", "topk"}}, 7), doctest::Contains("cannot be chosen"), Error);
}
