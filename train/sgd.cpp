#include "tessera/train/optimizer.h"

namespace tessera {
namespace {

// b ← μ b + g + λ w;  w ← w − lr b   (Nesterov: w ← w − lr (g + λ w + μ b))
class Sgd final : public Optimizer {
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
      : Optimizer(parameters), c_(config) {
    add_slot("momentum");
  }
  double lr() const override { return c_.lr; }

 protected:
  void begin_step(double lr, double gradient_scale) override {
    rate_ = static_cast<float>(lr);
    scale_ = static_cast<float>(gradient_scale);
  }

  void update(const Piece& p) const override {
    float* b = slot(0, p.parameter) + p.begin;
    const auto mu = static_cast<float>(c_.momentum);
    const auto decay = p.decay ? static_cast<float>(c_.weight_decay) : 0.0F;
    const float ahead = c_.nesterov ? mu : 1.0F;
    const float direct = c_.nesterov ? 1.0F : 0.0F;
#pragma omp simd
    for (int64_t i = 0; i < p.count; ++i) {
      const float g = p.grad[i] * scale_ + decay * p.value[i];
      b[i] = mu * b[i] + g;
      p.value[i] -= rate_ * (direct * g + ahead * b[i]);
    }
  }

 private:
  Config c_;
  float rate_ = 0;
  float scale_ = 1;
};

TESSERA_REGISTER(Optimizer, Sgd, "sgd", "gradient descent with momentum", "Sutskever et al. 2013");

}  // namespace
}  // namespace tessera
