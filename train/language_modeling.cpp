#include <cmath>

#include "tessera/autograd/ops/comparison.h"
#include "tessera/autograd/ops/cross_entropy.h"
#include "tessera/autograd/ops/reduce.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/tape.h"
#include "tessera/train/task.h"

namespace tessera {
namespace {

// Mean cross-entropy of the next token, in nats; targets of −1 are not scored.
class LanguageModeling final : public Task {
 public:
  struct Config {
    double label_smoothing = 0;
    TESSERA_FIELDS(f)
    { f("label_smoothing", label_smoothing, "probability spread over all tokens").min(0).below(1); }
  };
  explicit LanguageModeling(const Config& config) : c_(config) {}

  void check_model(Model& model) const override { interface_of(model); }

  Tensor loss(Model& model, const Batch& batch, const ForwardContext& context) override {
    auto& lm = interface_of(model);
    return linear_cross_entropy(lm.hidden(batch.at("tokens"), context), lm.head(),
                                batch.at("targets"), {.label_smoothing = c_.label_smoothing});
  }

  void evaluate(Model& model, const Batch& batch, const ForwardContext& context,
                MetricSums& sums) override {
    NoGrad off;
    auto& lm = interface_of(model);
    const Tensor& targets = batch.at("targets");
    Tensor logits = lm.logits(batch.at("tokens"), context);
    if (is_half(logits.dtype())) logits = logits.to(DType::f32);
    const auto scored = sum(ge(targets, 0).to(DType::i64)).item();
    const Tensor right = logical_and(eq(argmax(logits, -1), targets), ge(targets, 0));
    sums.add("loss", cross_entropy(logits, targets).item() * scored, scored);
    sums.add("accuracy", sum(right.to(DType::i64)).item(), scored);
  }

  void derive(std::map<std::string, double>& metrics) const override {
    metrics["perplexity"] = std::exp(metrics.at("loss"));
  }
  std::string unit() const override { return "tokens"; }
  int64_t units(const Batch& batch) const override { return batch.at("tokens").numel(); }

 private:
  static LanguageModel& interface_of(Model& model) {
    return as<LanguageModel>(model, "language_modeling", "a language model");
  }
  Config c_;
};

TESSERA_REGISTER(Task, LanguageModeling, "language_modeling", "predict the next token", "");

}  // namespace
}  // namespace tessera
