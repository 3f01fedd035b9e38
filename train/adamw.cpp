#include <cmath>

#include "tessera/train/optimizer.h"

namespace tessera {
namespace {

// m ← β₁ m + (1 − β₁) g;  v ← β₂ v + (1 − β₂) g²
// w ← w − lr (m̂ / (sqrt(v̂) + ε) + λ w),  m̂ = m / (1 − β₁ᵗ), v̂ = v / (1 − β₂ᵗ)
class AdamW final : public Optimizer {
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
      : Optimizer(parameters), c_(config) {
    add_slot("m");
    add_slot("v");
  }
  double lr() const override { return c_.lr; }

 protected:
  void begin_step(double lr, double gradient_scale) override {
    const auto t = static_cast<double>(steps_);
    scale_ = static_cast<float>(gradient_scale);
    rate_ = static_cast<float>(lr / (1 - std::pow(c_.beta1, t)));
    root_correction_ = static_cast<float>(1 / std::sqrt(1 - std::pow(c_.beta2, t)));
    shrink_ = static_cast<float>(1 - lr * c_.weight_decay);
  }

  void update(const Piece& p) const override {
    float* m = slot(0, p.parameter) + p.begin;
    float* v = slot(1, p.parameter) + p.begin;
    const auto b1 = static_cast<float>(c_.beta1);
    const auto b2 = static_cast<float>(c_.beta2);
    const auto eps = static_cast<float>(c_.eps);
    const float shrink = p.decay ? shrink_ : 1.0F;
#pragma omp simd
    for (int64_t i = 0; i < p.count; ++i) {
      const float g = p.grad[i] * scale_;
      m[i] = b1 * m[i] + (1 - b1) * g;
      v[i] = b2 * v[i] + (1 - b2) * g * g;
      p.value[i] =
          shrink * p.value[i] - rate_ * m[i] / (__builtin_sqrtf(v[i]) * root_correction_ + eps);
    }
  }

 private:
  Config c_;
  float scale_ = 1;
  float rate_ = 0;
  float root_correction_ = 1;
  float shrink_ = 1;
};

TESSERA_REGISTER(Optimizer, AdamW, "adamw", "Adam with decoupled weight decay",
                 "Loshchilov & Hutter 2019");

}  // namespace
}  // namespace tessera
