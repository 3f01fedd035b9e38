#include "tessera/train/elementwise_optimizer.h"

namespace tessera {
namespace {

class Sgd final : public ElementwiseOptimizer<SgdRule> {
 public:
  struct Config {
    double lr = 0.1;
    double momentum = 0.9;
    bool nesterov = false;
    double weight_decay = 0;
    TESSERA_FIELDS(f)
    {
      f("lr", lr, "learning rate before the schedule").min(0);
      f("momentum", momentum, "share of the last update that is kept").min(0).below(1);
      f("nesterov", nesterov, "look ahead along the momentum");
      f("weight_decay", weight_decay, "L2 penalty on matrices").min(0);
    }
  };

  Sgd(const Config& config, const std::vector<Parameter>& parameters)
      : ElementwiseOptimizer(parameters, rule_of(config), {"momentum"}), c_(config) {}
  double lr() const override { return c_.lr; }

 protected:
  StepScalars scalars(double lr) const override { return {.rate = static_cast<float>(lr)}; }

 private:
  static SgdRule rule_of(const Config& c) {
    const auto mu = static_cast<float>(c.momentum);
    return {.momentum = mu,
            .direct = c.nesterov ? 1.0F : 0.0F,
            .ahead = c.nesterov ? mu : 1.0F,
            .penalty = static_cast<float>(c.weight_decay)};
  }
  Config c_;
};

TESSERA_REGISTER(Optimizer, Sgd, "sgd", "gradient descent with momentum", "Sutskever et al. 2013");

}  // namespace
}  // namespace tessera
