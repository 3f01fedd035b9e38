#include "tessera/train/elementwise_optimizer.h"

namespace tessera {
namespace {

class Lion final : public ElementwiseOptimizer<LionRule> {
 public:
  struct Config {
    double lr = 1e-4;
    double beta1 = 0.9;
    double beta2 = 0.99;
    double weight_decay = 0.1;
    TESSERA_FIELDS(f)
    {
      f("lr", lr, "learning rate before the schedule").min(0);
      f("beta1", beta1, "weight of the momentum in the update").min(0).below(1);
      f("beta2", beta2, "decay of the momentum").min(0).below(1);
      f("weight_decay", weight_decay, "decoupled decay of matrices").min(0);
    }
  };

  Lion(const Config& config, const std::vector<Parameter>& parameters)
      : ElementwiseOptimizer(parameters,
                             {static_cast<float>(config.beta1), static_cast<float>(config.beta2)},
                             {"m"}),
        c_(config) {}
  double lr() const override { return c_.lr; }

 protected:
  StepScalars scalars(double lr) const override {
    return {.rate = static_cast<float>(lr), .shrink = static_cast<float>(1 - lr * c_.weight_decay)};
  }

 private:
  Config c_;
};

TESSERA_REGISTER(Optimizer, Lion, "lion", "the sign of a momentum", "Chen et al. 2023");

}  // namespace
}  // namespace tessera
