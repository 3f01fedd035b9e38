#include "tessera/train/ema.h"

#include "tessera/core/kernels/copy.h"
#include "tessera/core/parallel.h"
#include "tessera/train/ema_cuda.h"

namespace tessera {

Ema::Ema(const std::vector<Parameter>& parameters, double decay)
    : parameters_(parameters), decay_(decay) {
  for (const Parameter& p : parameters_) averages_.push_back(kernels::clone(p.weights()));
  if constexpr (kCuda) {
    const bool on_device = !averages_.empty() && averages_[0].device().is_cuda();
    if (on_device) table_ = std::make_shared<EmaTable>(averages_, parameters_);
  }
}

void Ema::update() {
  const auto keep = static_cast<float>(decay_);
  if constexpr (kCuda) {
    if (table_ != nullptr) return table_->update(keep);
  }
  for (size_t i = 0; i < parameters_.size(); ++i) {
    float* a = averages_[i].data<float>();
    const float* w = parameters_[i].value.data<float>();
    parallel_ranges(averages_[i].numel(), kGrain, [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) a[k] = keep * a[k] + (1 - keep) * w[k];
    });
  }
}

void Ema::swap() {
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const Tensor w = kernels::clone(parameters_[i].weights());
    kernels::copy(parameters_[i].weights(), averages_[i]);
    kernels::copy(averages_[i], w);
  }
  round_masters(parameters_);
}

NamedTensors Ema::state() const {
  NamedTensors state;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    state.emplace_back(parameters_[i].name, averages_[i]);
  }
  return state;
}

void Ema::load_state(const NamedTensors& state) {
  for (size_t i = 0; i < parameters_.size(); ++i) {
    bool found = false;
    for (const auto& [name, tensor] : state) {
      if (name != parameters_[i].name) continue;
      check(tensor.shape() == averages_[i].shape(), "ema: \"{}\" has shape {}, not {}", name,
            tensor.shape(), averages_[i].shape());
      kernels::copy(averages_[i], tensor);
      found = true;
    }
    check(found, "ema: the checkpoint lacks \"{}\"", parameters_[i].name);
  }
}

}  // namespace tessera
