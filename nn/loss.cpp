#include "tessera/nn/loss.h"

#include "tessera/autograd/ops/loss.h"

namespace tessera {
namespace {

struct NoOptions {
  TESSERA_FIELDS(f)
  { (void)f; }
};

// −log softmax(prediction)[target]; soft targets, of the prediction's shape, are distributions.
class CrossEntropy final : public Loss {
 public:
  struct Config {
    double label_smoothing = 0;
    int64_t ignore_index = -1;
    TESSERA_FIELDS(f)
    {
      f("label_smoothing", label_smoothing, "probability spread over all classes").min(0).below(1);
      f("ignore_index", ignore_index, "targets of this value are not scored");
    }
  };
  explicit CrossEntropy(const Config& config) : c_(config) {}
  Tensor operator()(const Tensor& prediction, const Tensor& target) const override {
    if (is_floating(target.dtype())) return soft_cross_entropy(prediction, target);
    return cross_entropy(prediction, target,
                         {.ignore_index = c_.ignore_index, .label_smoothing = c_.label_smoothing});
  }

 private:
  Config c_;
};

class BinaryCrossEntropy final : public Loss {
 public:
  using Config = NoOptions;
  explicit BinaryCrossEntropy(const Config&) {}
  Tensor operator()(const Tensor& prediction, const Tensor& target) const override {
    return binary_cross_entropy_with_logits(prediction, target);
  }
};

class MeanSquaredError final : public Loss {
 public:
  using Config = NoOptions;
  explicit MeanSquaredError(const Config&) {}
  Tensor operator()(const Tensor& prediction, const Tensor& target) const override {
    return mse_loss(prediction, target);
  }
};

class SmoothL1 final : public Loss {
 public:
  struct Config {
    double beta = 1;
    TESSERA_FIELDS(f)
    { f("beta", beta, "quadratic below, linear above").above(0); }
  };
  explicit SmoothL1(const Config& config) : beta_(config.beta) {}
  Tensor operator()(const Tensor& prediction, const Tensor& target) const override {
    return smooth_l1_loss(prediction, target, beta_);
  }

 private:
  double beta_;
};

TESSERA_REGISTER(Loss, CrossEntropy, "cross_entropy", "negative log-probability of the class", "");
TESSERA_REGISTER(Loss, BinaryCrossEntropy, "binary_cross_entropy", "per entry, from logits", "");
TESSERA_REGISTER(Loss, MeanSquaredError, "mse", "mean squared error", "");
TESSERA_REGISTER(Loss, SmoothL1, "smooth_l1", "quadratic near zero, linear beyond",
                 "Girshick 2015");

}  // namespace
}  // namespace tessera
