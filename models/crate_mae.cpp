#include "tessera/models/crate_mae.h"

#include <cmath>

#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/comparison.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/kernels/fill.h"
#include "tessera/core/view.h"
#include "tessera/nn/init.h"
#include "tessera/nn/ista.h"

namespace tessera {
namespace {

TESSERA_REGISTER(Model, CrateMae, "crate_mae",
                 "masked autoencoder whose decoder layers invert its encoder layers",
                 "Pai et al. 2024, CRATE-MAE");

constexpr double kTokenStd = 0.02;
constexpr double kFinalEps = 1e-6;

Geometry geometry(const CrateMae::Config& c, const DataInfo& in, int64_t layer) {
  return {.width = c.width,
          .heads = c.heads,
          .context = grid_of("crate_mae", in, c.patch).count() + 1,
          .layer = layer,
          .depth = c.depth,
          .grid_height = in.height / c.patch,
          .grid_width = in.width / c.patch,
          .prefix = 1};
}

// Glorot's uniform matrices in every linear map; dictionaries keep theirs.
void start_xavier(Module& module) {
  for (auto& [name, p] : module.parameters()) {
    if (p.rank() < 2 || !name.ends_with(".weight")) continue;
    kernels::copy(
        p, views::reshape(init::xavier_uniform({p.size(0), p.numel() / p.size(0)}), p.shape()));
  }
}

Tensor fixed_positions(const CrateMae::Config& c, const DataInfo& in) {
  const PatchGrid g = grid_of("crate_mae", in, c.patch);
  const Tensor none = zeros({1, c.width}, {DType::f64, {}});
  return unsqueeze(concat({none, grid_sines(g.rows, g.columns, c.width)}, 0), 0);
}

}  // namespace

Tensor grid_sines(int64_t rows, int64_t columns, int64_t width) {
  check(width % 4 == 0, "grid_sines: width {} is not a multiple of 4", width);
  const int64_t quarter = width / 4;
  std::vector<double> values;
  for (int64_t i = 0; i < rows * columns; ++i) {
    for (const int64_t place : {i % columns, i / columns}) {
      for (const bool cosine : {false, true}) {
        for (int64_t k = 0; k < quarter; ++k) {
          const double angle =
              static_cast<double>(place) *
              std::pow(10000.0, -static_cast<double>(k) / static_cast<double>(quarter));
          values.push_back(cosine ? std::cos(angle) : std::sin(angle));
        }
      }
    }
  }
  return from_values(values, {rows * columns, width});
}

CrateDecoderLayer::CrateDecoderLayer(double norm_eps, const Geometry& g)
    : norm1(g.width, norm_eps),
      dictionary(g.width, g.width, false),
      norm2(g.width, norm_eps),
      attention({}, g) {}

Tensor CrateDecoderLayer::operator()(const Tensor& y, const AttentionContext& context) {
  const Tensor half = dictionary(norm1(y));
  return half - attention(norm2(half), context);
}

CrateMae::Config::Config() {
  width = 64;
  attention = Choice<Attention>("mssa");
  feed_forward = Choice<FeedForward>("ista");
  feed_forward.config<Ista::Config>().lambda = 0.5;
}

CrateMae::CrateMae(const Config& c, const DataInfo& in)
    : patch_embedding(in.channels, c.patch, c.width),
      class_token(parameter(init::normal({1, 1, c.width}, kTokenStd))),
      mask_token(parameter(init::normal({1, 1, c.width}, kTokenStd))),
      drop(c.dropout),
      norm(c.width, kFinalEps),
      decoder_norm(c.width, c.norm_eps),
      head(c.width, in.channels * c.patch * c.patch),
      patch_(c.patch),
      positions_(fixed_positions(c, in)) {
  require_of_blocks("crate_mae", c, capability::kBidirectional);
  for (int64_t i = 0; i < c.depth; ++i) {
    blocks.push_back(std::make_unique<Block>(c, BlockOptions{.geometry = geometry(c, in, i)}));
    decoder.push_back(std::make_unique<CrateDecoderLayer>(c.norm_eps, geometry(c, in, i)));
  }
  start_xavier(*this);
  kernels::fill(head.bias, 0);
}

Tensor CrateMae::reconstruct(const Tensor& images, const Tensor& hidden,
                             const ForwardContext& context) {
  const Tensor seen = patch_embedding(images);
  const int64_t batch = seen.size(0), tokens = seen.size(1), width = seen.size(2);
  check(hidden.shape() == Shape{batch, tokens},
        "crate_mae: a mask {} does not fit {} patches of {}", hidden.shape(), tokens, batch);
  const Tensor patches = where(unsqueeze(hidden, 2), mask_token, seen);
  const Tensor x = concat({expand(class_token, {batch, 1, width}), patches}, 1);
  Residual r{drop(x + positions_.on(x.device()).to(x.dtype()))};
  AttentionContext attention{.layer = context.layer};
  attention.positions =
      arange(0, static_cast<double>(tokens + 1), 1, {DType::i64, images.device()});
  for (auto& block : blocks) r = (*block)(r, attention);
  Tensor y = norm(r.sum());
  for (auto& layer : decoder) y = (*layer)(y, attention);
  return slice(head(decoder_norm(y)), 1, 1);
}

}  // namespace tessera
