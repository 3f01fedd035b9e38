#include <cmath>

#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/comparison.h"
#include "tessera/autograd/ops/elementwise.h"
#include "tessera/autograd/ops/reduce.h"
#include "tessera/autograd/ops/sort.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/tape.h"
#include "tessera/core/random.h"
#include "tessera/models/patches.h"
#include "tessera/train/task.h"

namespace tessera {
namespace {

// Mean squared error of the pixels of hidden patches (He et al. 2022, "Masked Autoencoders Are
// Scalable Vision Learners").
class MaskedAutoencoding final : public Task {
 public:
  struct Config {
    double mask_ratio = 0.75;
    bool normalize = false;
    TESSERA_FIELDS(f)
    {
      f("mask_ratio", mask_ratio, "share of the patches that are hidden").above(0).max(1);
      f("normalize", normalize, "predict patches scaled to mean 0 and variance 1");
    }
  };
  explicit MaskedAutoencoding(const Config& config) : c_(config) {}

  void check_model(Model& model) const override { interface_of(model); }

  Tensor loss(Model& model, const Batch& batch, const ForwardContext& context) override {
    auto& reconstructor = interface_of(model);
    const Tensor& images = batch.at("images");
    const Tensor wanted = targets(images, reconstructor.patch());
    const Tensor hidden = random_mask(wanted);
    const Tensor given = reconstructor.reconstruct(images, hidden, context);
    return error(given.to(wanted.dtype()), wanted, hidden);
  }

  // Beside the loss, that of knowing the mean patch of the batch alone, and how the two compare.
  void evaluate(Model& model, const Batch& batch, const ForwardContext& context,
                MetricSums& sums) override {
    NoGrad off;
    RandomScope scope(kEvaluationSeed);
    auto& reconstructor = interface_of(model);
    const Tensor& images = batch.at("images");
    const Tensor wanted = targets(images, reconstructor.patch());
    const Tensor hidden = random_mask(wanted);
    const Tensor given = reconstructor.reconstruct(images, hidden, context).to(wanted.dtype());
    const auto count = static_cast<double>(images.size(0));
    sums.add("loss", error(given, wanted, hidden).item() * count, count);
    sums.add("mean_patch_loss", error(mean(wanted, {0, 1}, true), wanted, hidden).item() * count,
             count);
  }

  void derive(std::map<std::string, double>& metrics) const override {
    metrics["relative_loss"] = metrics.at("loss") / metrics.at("mean_patch_loss");
  }
  std::string unit() const override { return "images"; }
  int64_t units(const Batch& batch) const override { return batch.at("images").size(0); }

 private:
  static constexpr uint64_t kEvaluationSeed = 0x6d61736b;

  Tensor targets(const Tensor& images, int64_t patch) const {
    const Tensor x = to_patches(images, patch);
    if (!c_.normalize) return x;
    return (x - mean(x, {2}, true)) * rsqrt(var(x, {2}, 1, true) + 1e-6);
  }

  // bool (B, N): of each image the patches with the least of N random numbers.
  Tensor random_mask(const Tensor& patches) const {
    const int64_t count = patches.size(1);
    const auto hidden =
        std::max<int64_t>(1, std::llround(c_.mask_ratio * static_cast<double>(count)));
    const Tensor draw = rand({patches.size(0), count}, DType::f32, patches.device());
    return le(draw, kth_value(draw, hidden, -1, true).values);
  }

  static Tensor error(const Tensor& given, const Tensor& wanted, const Tensor& hidden) {
    const Tensor counts = hidden.to(wanted.dtype());
    return sum(mean(square(given - wanted), {2}) * counts) / sum(counts);
  }

  static ImageReconstructor& interface_of(Model& model) {
    return as<ImageReconstructor>(model, "masked_autoencoding", "an image reconstructor");
  }
  Config c_;
};

TESSERA_REGISTER(Task, MaskedAutoencoding, "masked_autoencoding",
                 "fill in the hidden patches of an image", "He et al. 2022, MAE");

}  // namespace
}  // namespace tessera
