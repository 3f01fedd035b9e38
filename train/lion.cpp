#include "tessera/train/optimizer.h"

namespace tessera {
namespace {

// w ← w − lr (sign(β₁ m + (1 − β₁) g) + λ w);  m ← β₂ m + (1 − β₂) g
class Lion final : public Optimizer {
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
      : Optimizer(parameters), c_(config) {
    add_slot("m");
  }
  double lr() const override { return c_.lr; }

 protected:
  void begin_step(double lr, double gradient_scale) override {
    rate_ = static_cast<float>(lr);
    scale_ = static_cast<float>(gradient_scale);
    shrink_ = static_cast<float>(1 - lr * c_.weight_decay);
  }

  void update(const Piece& p) const override {
    float* m = slot(0, p.parameter) + p.begin;
    const auto b1 = static_cast<float>(c_.beta1);
    const auto b2 = static_cast<float>(c_.beta2);
    const float shrink = p.decay ? shrink_ : 1.0F;
#pragma omp simd
    for (int64_t i = 0; i < p.count; ++i) {
      const float g = p.grad[i] * scale_;
      const float direction = b1 * m[i] + (1 - b1) * g;
      const float sign = direction > 0 ? 1.0F : (direction < 0 ? -1.0F : 0.0F);
      p.value[i] = shrink * p.value[i] - rate_ * sign;
      m[i] = b2 * m[i] + (1 - b2) * g;
    }
  }

 private:
  Config c_;
  float rate_ = 0;
  float scale_ = 1;
  float shrink_ = 1;
};

TESSERA_REGISTER(Optimizer, Lion, "lion", "the sign of a momentum", "Chen et al. 2023");

}  // namespace
}  // namespace tessera
