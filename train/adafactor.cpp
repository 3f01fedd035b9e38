#include <cmath>

#include "tessera/core/kernels/copy.h"
#include "tessera/core/parallel.h"
#include "tessera/train/adafactor_cuda.h"
#include "tessera/train/optimizer.h"

namespace tessera {
namespace {

// Second moments of a matrix are kept as its row and column means r, c:
//   β_t = 1 − t^(−0.8);  r ← β_t r + (1 − β_t) mean_cols(g² + ε₁);  c likewise over rows
//   u = g / sqrt(r cᵀ / mean(r));  u ← u / max(1, rms(u) / d);  w ← w − lr · max(ε₂, rms(w)) u − lr
//   λ w
// Vectors keep a full second moment. Tensors of higher rank are matrices (first size, the rest).
class Adafactor final : public Optimizer {
 public:
  struct Config {
    double lr = 1e-2;
    double eps1 = 1e-30;
    double eps2 = 1e-3;
    double clip = 1.0;
    double decay_rate = 0.8;
    bool relative = true;
    double weight_decay = 0;
    TESSERA_FIELDS(f)
    {
      f("lr", lr, "learning rate before the schedule").min(0);
      f("eps1", eps1, "added to squared gradients").min(0);
      f("eps2", eps2, "least scale of a parameter").min(0);
      f("clip", clip, "largest root mean square of an update").above(0);
      f("decay_rate", decay_rate, "β_t = 1 − t^(−decay_rate)").above(0);
      f("relative", relative, "steps are relative to the scale of the parameter");
      f("weight_decay", weight_decay, "decoupled decay of matrices").min(0);
    }
  };

  Adafactor(const Config& config, const std::vector<Parameter>& parameters)
      : Optimizer(parameters), c_(config) {
    add_slot("row", [](const Parameter& p) {
      return p.value.rank() >= 2 ? Shape{p.value.size(0)} : p.value.shape();
    });
    add_slot("column", [](const Parameter& p) {
      return p.value.rank() >= 2 ? Shape{p.value.numel() / std::max<int64_t>(1, p.value.size(0))}
                                 : Shape{0};
    });
  }
  double lr() const override { return c_.lr; }

 protected:
  double beta() const { return 1 - std::pow(static_cast<double>(steps_), -c_.decay_rate); }
  StepScalars scalars(double lr) const override {
    return {.rate = static_cast<float>(lr), .beta = static_cast<float>(beta())};
  }
  void update(const Piece&, const StepScalars&, float) const override {}
  void update_on_device(const Tensor& state) override {
    if constexpr (kCuda) {
      if (factored_ == nullptr) factored_ = std::make_shared<FactoredTable>(table(), parameters());
      factored_->update({c_.eps1, c_.eps2, c_.clip, c_.weight_decay, c_.relative}, state);
    }
  }

  // One task per parameter: its rows, columns and scales belong together.
  void update_all(double lr, double gradient_scale) override {
    rate_ = lr;
    scale_ = gradient_scale;
    beta_ = beta();
    parallel_for(static_cast<int64_t>(parameters().size()), kSerialBelow,
                 [&](int64_t i) { update_parameter(static_cast<size_t>(i)); });
  }

 private:
  void update_parameter(size_t i) const {
    const Parameter& p = parameters()[i];
    if (!p.value.grad().defined() || p.value.numel() == 0) return;
    const Tensor grad = kernels::contiguous(p.value.grad());
    const float* g = grad.data<float>();
    const int64_t n = p.value.numel();
    std::vector<float> u(static_cast<size_t>(n));
    if (p.value.rank() >= 2) {
      matrix_update(g, p.value.size(0), n / p.value.size(0), slot(0, i), slot(1, i), u.data());
    } else {
      vector_update(g, n, slot(0, i), u.data());
    }
    apply(p, u.data(), n);
  }

  double squared(float g) const {
    const double x = g * scale_;
    return x * x + c_.eps1;
  }

  void vector_update(const float* g, int64_t n, float* v, float* u) const {
    for (int64_t i = 0; i < n; ++i) {
      v[i] = static_cast<float>(beta_ * v[i] + (1 - beta_) * squared(g[i]));
      u[i] = static_cast<float>(g[i] * scale_ / std::sqrt(static_cast<double>(v[i])));
    }
  }

  void matrix_update(const float* g, int64_t rows, int64_t columns, float* r, float* c,
                     float* u) const {
    std::vector<double> sums(static_cast<size_t>(columns));
    double mean_row = 0;
    for (int64_t i = 0; i < rows; ++i) {
      double sum = 0;
      for (int64_t j = 0; j < columns; ++j) {
        const double s = squared(g[i * columns + j]);
        sum += s;
        sums[static_cast<size_t>(j)] += s;
      }
      r[i] = static_cast<float>(beta_ * r[i] + (1 - beta_) * sum / static_cast<double>(columns));
      mean_row += r[i] / static_cast<double>(rows);
    }
    for (int64_t j = 0; j < columns; ++j) {
      c[j] = static_cast<float>(beta_ * c[j] + (1 - beta_) * sums[static_cast<size_t>(j)] /
                                                   static_cast<double>(rows));
    }
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < columns; ++j) {
        const double v = static_cast<double>(r[i]) * c[j] / mean_row;
        u[i * columns + j] = static_cast<float>(g[i * columns + j] * scale_ / std::sqrt(v));
      }
    }
  }

  void apply(const Parameter& p, const float* u, int64_t n) const {
    float* w = p.value.data<float>();
    double squares_u = 0;
    double squares_w = 0;
    for (int64_t i = 0; i < n; ++i) {
      squares_u += static_cast<double>(u[i]) * u[i];
      squares_w += static_cast<double>(w[i]) * w[i];
    }
    const double rms_u = std::sqrt(squares_u / static_cast<double>(n));
    const double rms_w = std::sqrt(squares_w / static_cast<double>(n));
    const double size = c_.relative ? std::max(c_.eps2, rms_w) : 1;
    const auto step = static_cast<float>(rate_ * size / std::max(1.0, rms_u / c_.clip));
    const auto shrink = static_cast<float>(p.decay ? 1 - rate_ * c_.weight_decay : 1);
    for (int64_t i = 0; i < n; ++i) w[i] = shrink * w[i] - step * u[i];
  }

  Config c_;
  double rate_ = 0;
  double scale_ = 1;
  double beta_ = 0;
  std::shared_ptr<FactoredTable> factored_;  // of parameters on CUDA
};

TESSERA_REGISTER(Optimizer, Adafactor, "adafactor", "factored second moments, sublinear memory",
                 "Shazeer & Stern 2018");

}  // namespace
}  // namespace tessera
