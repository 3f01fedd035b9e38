#include "tessera/nn/positions.h"

#include <cmath>

#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/embedding.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/core/create.h"
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

Tensor Positions::embed(const Tensor& x, const Tensor&) const {
  return x;
}
Tensor Positions::rotate(const Tensor& x, const Tensor&) const {
  return x;
}
Tensor Positions::score_bias(const Tensor&, const Tensor&) const {
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
  const std::vector<int64_t> at = positions.to_vector<int64_t>();
  std::vector<double> table;
  for (int64_t p : at) {
    for (int64_t c = 0; c < width; ++c) {
      const double exponent = static_cast<double>(c / 2 * 2) / static_cast<double>(width);
      const double angle = static_cast<double>(p) / std::pow(base_, exponent);
      table.push_back(c % 2 == 0 ? std::sin(angle) : std::cos(angle));
    }
  }
  return x + from_values(table, {static_cast<int64_t>(at.size()), width}).to(x.dtype());
}

RotaryPositions::RotaryPositions(const Config& c, const PositionGeometry& g) {
  check(g.head_dim % 2 == 0, "positions: rotary wants an even head_dim, got {}", g.head_dim);
  options_ = {.base = c.base,
              .interleaved = c.interleaved,
              .scaling = c.scaling,
              .factor = c.factor,
              .low = c.low,
              .high = c.high,
              .original_context = c.original_context};
}

Tensor RotaryPositions::rotate(const Tensor& x, const Tensor& positions) const {
  return rotary(x, positions, options_);
}

AlibiPositions::AlibiPositions(const Config&, const PositionGeometry& g) {
  std::vector<double> slopes;
  for (int64_t h = 1; h <= g.heads; ++h) {
    slopes.push_back(std::exp2(-8.0 * static_cast<double>(h) / static_cast<double>(g.heads)));
  }
  slopes_ = from_values(slopes, {g.heads, 1, 1});
}

Tensor AlibiPositions::score_bias(const Tensor& query_positions,
                                  const Tensor& key_positions) const {
  const Tensor distance = unsqueeze(query_positions, 1) - unsqueeze(key_positions, 0);
  return slopes_.to(DType::f32) * (distance * -1).to(DType::f32);
}

RelativeBias::RelativeBias(const Config& config, const PositionGeometry& g)
    : weight(parameter(init::normal({config.buckets, g.heads}, 0.02))), config_(config) {
  const int64_t exact = config.buckets / (config.bidirectional ? 4 : 2);
  check(config.max_distance > exact,
        "positions: max_distance {} must exceed the {} distances that have a bucket of their own",
        config.max_distance, exact);
}

int64_t RelativeBias::bucket(int64_t distance) const {
  int64_t count = config_.buckets;
  int64_t first = 0;
  if (config_.bidirectional) {
    count /= 2;
    if (distance < 0) first = count;
    distance = std::abs(distance);
  } else {
    distance = std::max<int64_t>(distance, 0);
  }
  const int64_t exact = count / 2;
  if (distance < exact) return first + distance;
  const double ratio =
      std::log(static_cast<double>(distance) / static_cast<double>(exact)) /
      std::log(static_cast<double>(config_.max_distance) / static_cast<double>(exact));
  const auto step = static_cast<int64_t>(ratio * static_cast<double>(count - exact));
  return first + std::min(count - 1, exact + step);
}

Tensor RelativeBias::score_bias(const Tensor& query_positions, const Tensor& key_positions) const {
  std::vector<int64_t> ids;
  const auto keys = key_positions.to_vector<int64_t>();
  for (int64_t i : query_positions.to_vector<int64_t>()) {
    for (int64_t j : keys) ids.push_back(bucket(i - j));
  }
  const Tensor index =
      from_values(ids, {query_positions.size(0), static_cast<int64_t>(keys.size())});
  return permute(embedding(weight, index), {2, 0, 1});
}

}  // namespace tessera
