#include <algorithm>
#include <numeric>
#include <vector>

#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/comparison.h"
#include "tessera/autograd/ops/elementwise.h"
#include "tessera/autograd/ops/loss.h"
#include "tessera/autograd/ops/reduce.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/tape.h"
#include "tessera/train/task.h"

namespace tessera {
namespace {

// Two tasks on pairs of users and items: cross-entropy of watching, and the squared error of the
// rating over pairs that have one.
class Recommendation final : public Task {
 public:
  struct Config {
    double watch_weight = 0.5;
    double rating_weight = 0.5;
    TESSERA_FIELDS(f)
    {
      f("watch_weight", watch_weight, "of the cross-entropy of watching").min(0);
      f("rating_weight", rating_weight, "of the squared error of ratings").min(0);
    }
  };
  explicit Recommendation(const Config& config) : c_(config) {}

  void check_model(Model& model) const override { interface_of(model); }

  Tensor loss(Model& model, const Batch& batch, const ForwardContext& context) override {
    const auto scores = scores_of(model, batch, context);
    return watch_loss(scores, batch) * c_.watch_weight +
           squared_error(scores, batch) * c_.rating_weight / count_of_ratings(batch);
  }

  // "loss" weighs means over pairs and over ratings, as training does within a batch.
  void evaluate(Model& model, const Batch& batch, const ForwardContext& context,
                MetricSums& sums) override {
    NoGrad off;
    const auto scores = scores_of(model, batch, context);
    const Tensor& watch = batch.at("watch");
    const auto pairs = static_cast<double>(watch.numel());
    const auto rated = sum(ne(batch.at("rating"), 0).to(DType::f64)).item();
    const Tensor right = eq(gt(scores.watch, 0).to(DType::f32), watch);
    sums.add("watch_loss", watch_loss(scores, batch).item() * pairs, pairs);
    sums.add("accuracy", sum(right.to(DType::i64)).item(), pairs);
    if (rated > 0) sums.add("mse", squared_error(scores, batch).item(), rated);
    remember(scores.watch, watch);
  }

  void derive(std::map<std::string, double>& metrics) const override {
    const double mse = metrics.contains("mse") ? metrics.at("mse") : 0;
    metrics["loss"] = c_.watch_weight * metrics.at("watch_loss") + c_.rating_weight * mse;
    metrics["auc"] = area_under_curve(seen_);
    seen_.clear();
  }
  std::string unit() const override { return "pairs"; }
  int64_t units(const Batch& batch) const override { return batch.at("users").numel(); }

 private:
  struct Seen {
    double score;
    bool watched;
  };

  static Recommender& interface_of(Model& model) {
    return as<Recommender>(model, "recommendation", "a recommender");
  }
  static Recommender::Scores scores_of(Model& model, const Batch& batch,
                                       const ForwardContext& context) {
    auto s = interface_of(model).scores(batch.at("users"), batch.at("items"), context);
    const auto in_full = [](const Tensor& x) { return is_half(x.dtype()) ? x.to(DType::f32) : x; };
    return {in_full(s.watch), in_full(s.rating)};
  }
  static Tensor watch_loss(const Recommender::Scores& scores, const Batch& batch) {
    return binary_cross_entropy_with_logits(scores.watch, batch.at("watch"));
  }
  static Tensor squared_error(const Recommender::Scores& scores, const Batch& batch) {
    const Tensor& rating = batch.at("rating");
    return sum(square(scores.rating - rating) * ne(rating, 0).to(rating.dtype()));
  }
  // At least 1, on the device.
  static Tensor count_of_ratings(const Batch& batch) {
    const Tensor& rating = batch.at("rating");
    return clamp(sum(ne(rating, 0).to(rating.dtype())), 1, INFINITY);
  }

  void remember(const Tensor& scores, const Tensor& watch) {
    const auto s = scores.to_vector<double>(), w = watch.to_vector<double>();
    for (size_t i = 0; i < s.size(); ++i) seen_.push_back({s[i], w[i] > 0.5});
  }

  // The probability that a watched pair scores above another one; ties count half.
  static double area_under_curve(std::vector<Seen> list) {
    std::sort(list.begin(), list.end(),
              [](const Seen& a, const Seen& b) { return a.score < b.score; });
    double below = 0, won = 0, watched = 0;
    for (size_t i = 0; i < list.size();) {
      double yes = 0, no = 0;
      const double score = list[i].score;
      for (; i < list.size() && list[i].score == score; ++i) (list[i].watched ? yes : no) += 1;
      won += yes * (below + no / 2);
      below += no;
      watched += yes;
    }
    return watched > 0 && below > 0 ? won / (watched * below) : 0.5;
  }

  Config c_;
  mutable std::vector<Seen> seen_;  // of the evaluation that goes on
};

TESSERA_REGISTER(Task, Recommendation, "recommendation",
                 "predict what a user watches and how it is rated", "Ibrahim et al. 2023, COMET");

}  // namespace
}  // namespace tessera
