#include "tessera/nn/positions.h"

#include <cmath>
#include <mutex>

#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/elementwise.h"
#include "tessera/autograd/ops/embedding.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/nn/init.h"

namespace tessera {
namespace {

TESSERA_REGISTER(Positions, NoPositions, "none", "no positions", "");
TESSERA_REGISTER(Positions, LearnedPositions, "learned", "a learned vector per position, added",
                 "Gehring et al. 2017");
TESSERA_REGISTER(Positions, SinusoidalPositions, "sinusoidal", "fixed sines and cosines, added",
                 "Vaswani et al. 2017");
TESSERA_REGISTER(Positions, RotaryPositions, "rotary", "queries and keys are rotated",
                 "Su et al. 2021");
TESSERA_REGISTER(Positions, AlibiPositions, "alibi", "scores fall linearly with distance",
                 "Press et al. 2022");
TESSERA_REGISTER(Positions, RelativeBias, "relative_bias", "a learned bias per bucket of distances",
                 "Raffel et al. 2020");

}  // namespace

Tensor Constant::on(Device device) const {
  static std::mutex mutex;
  const std::lock_guard<std::mutex> lock(mutex);
  for (const Tensor& copy : copies_) {
    if (copy.device() == device) return copy;
  }
  copies_.push_back(kernels::to_device(copies_.front(), device));
  return copies_.back();
}

Tensor Positions::embed(const Tensor& x, const Tensor&) const {
  return x;
}
Tensor Positions::rotate(const Tensor& x, const Tensor&) const {
  return x;
}
ScoreBias Positions::score_bias(Device) const {
  return {};
}

LearnedPositions::LearnedPositions(const Config& config, const PositionGeometry& g)
    : weight(parameter(init::normal({g.context, g.width}, config.init_std))) {}

Tensor LearnedPositions::embed(const Tensor& x, const Tensor& positions) const {
  return x + embedding(weight, positions);
}

SinusoidalPositions::SinusoidalPositions(const Config& config, const PositionGeometry&)
    : base_(config.base) {}

Tensor SinusoidalPositions::embed(const Tensor& x, const Tensor& positions) const {
  const int64_t width = x.size(-1);
  const int64_t pairs = (width + 1) / 2;
  std::vector<double> frequencies;
  for (int64_t i = 0; i < pairs; ++i) {
    frequencies.push_back(
        std::pow(base_, -2 * static_cast<double>(i) / static_cast<double>(width)));
  }
  // (…, N, 2, pairs), cosines first → (…, N, pairs, 2), sines first.
  const DType dtype = is_half(x.dtype()) ? DType::f32 : x.dtype();
  const Tensor table = transpose(flip(turns(positions, frequencies, dtype), {-2}), -2, -1);
  return x + slice(flatten(table, -2), -1, 0, width).to(x.dtype());
}

RotaryPositions::RotaryPositions(const Config& c, const PositionGeometry& g) {
  check(g.head_dim % 2 == 0, "positions: rotary wants an even head_dim, got {}", g.head_dim);
  options_ = {.base = c.base,
              .interleaved = c.interleaved,
              .scaling = c.scaling,
              .factor = c.factor,
              .low = c.low,
              .high = c.high,
              .original_context = c.original_context,
              .amplitude = c.amplitude};
}

Tensor RotaryPositions::rotate(const Tensor& x, const Tensor& positions) const {
  return rotary(x, positions.rank() == 2 ? unsqueeze(positions, 1) : positions, options_);
}

AlibiPositions::AlibiPositions(const Config&, const PositionGeometry& g) {
  std::vector<double> slopes;
  for (int64_t h = 1; h <= g.heads; ++h) {
    slopes.push_back(std::exp2(-8.0 * static_cast<double>(h) / static_cast<double>(g.heads)));
  }
  slopes_ = Constant(from_values(slopes, {g.heads}).to(DType::f32));
}

ScoreBias AlibiPositions::score_bias(Device device) const {
  return {.kind = ScoreBias::Kind::slopes, .table = slopes_.on(device)};
}

RelativeBias::RelativeBias(const Config& config, const PositionGeometry& g)
    : weight(parameter(init::normal({config.buckets, g.heads}, 0.02))), config_(config) {
  const int64_t exact = config.buckets / (config.bidirectional ? 4 : 2);
  check(config.max_distance > exact,
        "positions: max_distance {} must exceed the {} distances that have a bucket of their own",
        config.max_distance, exact);
}

ScoreBias RelativeBias::score_bias(Device) const {
  return {.kind = ScoreBias::Kind::buckets,
          .table = weight,
          .max_distance = config_.max_distance,
          .bidirectional = config_.bidirectional};
}

}  // namespace tessera
