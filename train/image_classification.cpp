#include "tessera/autograd/ops/comparison.h"
#include "tessera/autograd/ops/cross_entropy.h"
#include "tessera/autograd/ops/reduce.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/tape.h"
#include "tessera/train/task.h"

namespace tessera {
namespace {

// Cross-entropy of the class, against labels or, where images were mixed, soft targets.
class ImageClassification final : public Task {
 public:
  struct Config {
    double label_smoothing = 0;
    TESSERA_FIELDS(f)
    {
      f("label_smoothing", label_smoothing, "probability spread over all classes").min(0).below(1);
    }
  };
  explicit ImageClassification(const Config& config) : c_(config) {}

  void check_model(Model& model) const override { interface_of(model); }

  Tensor loss(Model& model, const Batch& batch, const ForwardContext& context) override {
    auto& classifier = interface_of(model);
    const Tensor logits = in_full(classifier.logits(batch.at("images"), context));
    const auto soft = batch.find("soft_targets");
    if (soft != batch.end()) return soft_cross_entropy(logits, soft->second);
    return cross_entropy(logits, batch.at("labels"), {.label_smoothing = c_.label_smoothing});
  }

  void evaluate(Model& model, const Batch& batch, const ForwardContext& context,
                MetricSums& sums) override {
    NoGrad off;
    auto& classifier = interface_of(model);
    const Tensor& labels = batch.at("labels");
    const Tensor logits = in_full(classifier.logits(batch.at("images"), context));
    const auto count = static_cast<double>(labels.numel());
    sums.add("loss", cross_entropy(logits, labels).item() * count, count);
    sums.add("accuracy", sum(eq(argmax(logits, -1), labels).to(DType::i64)).item(), count);
  }

  std::string headline() const override { return "accuracy"; }
  bool smaller_is_better() const override { return false; }
  std::string unit() const override { return "images"; }
  int64_t units(const Batch& batch) const override { return batch.at("images").size(0); }

 private:
  // Losses are computed in f32.
  static Tensor in_full(const Tensor& x) { return is_half(x.dtype()) ? x.to(DType::f32) : x; }
  static ImageClassifier& interface_of(Model& model) {
    return as<ImageClassifier>(model, "image_classification", "an image classifier");
  }
  Config c_;
};

TESSERA_REGISTER(Task, ImageClassification, "image_classification", "name the class of an image",
                 "");

}  // namespace
}  // namespace tessera
