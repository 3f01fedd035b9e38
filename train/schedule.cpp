#include "tessera/train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace tessera {
namespace {

struct WarmupConfig {
  int64_t warmup = 0;
  double final_factor = 0.1;
  TESSERA_FIELDS(f)
  {
    f("warmup", warmup, "steps of linear rise from 0").min(0);
    f("final", final_factor, "factor at the last step").min(0).max(1);
  }
};

// Linear rise over the warm-up, then decay(r) for r from 0 to 1 over the remaining steps.
class Warmup : public Schedule {
 public:
  double factor(int64_t step) const override {
    if (step < warmup_) return static_cast<double>(step + 1) / static_cast<double>(warmup_ + 1);
    const double length = static_cast<double>(std::max<int64_t>(1, steps_ - warmup_));
    return decay(std::min(1.0, static_cast<double>(step - warmup_) / length));
  }

 protected:
  Warmup(int64_t warmup, int64_t steps) : warmup_(warmup), steps_(steps) {}
  virtual double decay(double r) const = 0;
  int64_t warmup_;
  int64_t steps_;
};

class Cosine final : public Warmup {
 public:
  using Config = WarmupConfig;
  Cosine(const Config& c, int64_t steps) : Warmup(c.warmup, steps), final_(c.final_factor) {}

 private:
  double decay(double r) const override {
    return final_ + (1 - final_) * 0.5 * (1 + std::cos(std::numbers::pi * r));
  }
  double final_;
};

class LinearDecay final : public Warmup {
 public:
  using Config = WarmupConfig;
  LinearDecay(const Config& c, int64_t steps) : Warmup(c.warmup, steps), final_(c.final_factor) {}

 private:
  double decay(double r) const override { return 1 - (1 - final_) * r; }
  double final_;
};

class Constant final : public Warmup {
 public:
  struct Config {
    int64_t warmup = 0;
    TESSERA_FIELDS(f)
    { f("warmup", warmup, "steps of linear rise from 0").min(0); }
  };
  Constant(const Config& c, int64_t steps) : Warmup(c.warmup, steps) {}

 private:
  double decay(double) const override { return 1; }
};

// min((t + 1) / warmup, sqrt(warmup / (t + 1)))
class InverseSqrt final : public Schedule {
 public:
  struct Config {
    int64_t warmup = 100;
    TESSERA_FIELDS(f)
    { f("warmup", warmup, "steps of linear rise before the decay").min(1); }
  };
  InverseSqrt(const Config& c, int64_t) : warmup_(static_cast<double>(c.warmup)) {}
  double factor(int64_t step) const override {
    const auto t = static_cast<double>(step + 1);
    return std::min(t / warmup_, std::sqrt(warmup_ / t));
  }

 private:
  double warmup_;
};

TESSERA_REGISTER(Schedule, Cosine, "cosine", "warm-up, then half a cosine",
                 "Loshchilov & Hutter 2017");
TESSERA_REGISTER(Schedule, LinearDecay, "linear", "warm-up, then a straight line", "");
TESSERA_REGISTER(Schedule, Constant, "constant", "warm-up, then level", "");
TESSERA_REGISTER(Schedule, InverseSqrt, "inverse_sqrt", "warm-up, then 1 / sqrt(step)",
                 "Vaswani et al. 2017");

}  // namespace
}  // namespace tessera
