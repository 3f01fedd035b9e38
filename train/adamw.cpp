#include <cmath>

#include "tessera/train/elementwise_optimizer.h"

namespace tessera {
namespace {

class AdamW final : public ElementwiseOptimizer<AdamWRule> {
 public:
  struct Config {
    double lr = 1e-3;
    double beta1 = 0.9;
    double beta2 = 0.999;
    double eps = 1e-8;
    double weight_decay = 0.01;
    TESSERA_FIELDS(f)
    {
      f("lr", lr, "learning rate before the schedule").min(0);
      f("beta1", beta1, "decay of the mean of gradients").min(0).below(1);
      f("beta2", beta2, "decay of the mean of squared gradients").min(0).below(1);
      f("eps", eps, "added to the root of the second moment").above(0);
      f("weight_decay", weight_decay, "decoupled decay of matrices").min(0);
    }
  };

  AdamW(const Config& config, const std::vector<Parameter>& parameters)
      : ElementwiseOptimizer(parameters,
                             {static_cast<float>(config.beta1), static_cast<float>(config.beta2),
                              static_cast<float>(config.eps)},
                             {"m", "v"}),
        c_(config) {}
  double lr() const override { return c_.lr; }

 protected:
  StepScalars scalars(double lr) const override {
    const auto t = static_cast<double>(steps_);
    return {.rate = static_cast<float>(lr / (1 - std::pow(c_.beta1, t))),
            .shrink = static_cast<float>(1 - lr * c_.weight_decay),
            .correction = static_cast<float>(1 / std::sqrt(1 - std::pow(c_.beta2, t)))};
  }

 private:
  Config c_;
};

TESSERA_REGISTER(Optimizer, AdamW, "adamw", "Adam with decoupled weight decay",
                 "Loshchilov & Hutter 2019");

}  // namespace
}  // namespace tessera
