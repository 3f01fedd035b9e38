#include "tessera/models/pyramid.h"

#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/reduce.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/core/create.h"
#include "tessera/nn/init.h"

namespace tessera {
namespace {

TESSERA_REGISTER(Model, Pyramid, "pyramid", "image transformer in stages with patch merging",
                 "Liu et al. 2021, Swin; Wang et al. 2021, PVT");

constexpr double kStd = 0.02;

const Pyramid::Stage& first_stage(const Pyramid::Config& c) {
  check(!c.stages.empty(), "pyramid: model.stages is empty; it wants at least one stage");
  return c.stages.front();
}

// What the blocks of a stage are made of.
BlocksConfig blocks_of(const Pyramid::Config& c, const Pyramid::Stage& stage) {
  BlocksConfig b;
  b.width = stage.width;
  b.depth = stage.depth;
  b.heads = stage.heads;
  b.attention = stage.attention.value_or(c.attention);
  b.feed_forward = stage.feed_forward.value_or(c.feed_forward);
  b.layers = stage.layers;
  b.norm = c.norm;
  b.norm_eps = c.norm_eps;
  b.dropout = c.dropout;
  return b;
}

}  // namespace

PatchMerging::PatchMerging(int64_t width, int64_t next, const PatchGrid& g)
    : norm(4 * width), reduction(Linear::truncated_normal(4 * width, next, false, kStd)), grid(g) {
  check(g.rows % 2 == 0 && g.columns % 2 == 0,
        "pyramid: a grid of {} x {} patches cannot be halved; use fewer stages or another patch",
        g.rows, g.columns);
}

Tensor PatchMerging::operator()(const Tensor& x) const {
  const int64_t batch = x.size(0), width = x.size(2);
  const Tensor cells = reshape(x, {batch, grid.rows / 2, 2, grid.columns / 2, 2, width});
  return reduction(
      norm(reshape(permute(cells, {0, 1, 3, 2, 4, 5}), {batch, grid.count() / 4, 4 * width})));
}

Pyramid::Pyramid(const Config& c, const DataInfo& in)
    : patch_embedding(in.channels, c.patch, first_stage(c).width),
      drop(c.dropout),
      norm(c.norm, c.stages.back().width, c.norm_eps),
      head(Linear::truncated_normal(c.stages.back().width, in.classes, true, kStd)) {
  check(in.classes > 0, "pyramid: the data has no classes");
  PatchGrid grid = grid_of("pyramid", in, c.patch);
  if (c.positions) {
    positions = parameter(init::truncated_normal({1, grid.count(), c.stages[0].width}, kStd));
  }
  int64_t depth = 0;
  for (const Stage& stage : c.stages) depth += stage.depth;
  for (size_t s = 0; s < c.stages.size(); ++s) {
    if (s > 0) {
      mergings.push_back(
          std::make_unique<PatchMerging>(c.stages[s - 1].width, c.stages[s].width, grid));
      grid = {grid.rows / 2, grid.columns / 2};
    }
    add_stage(c, s, grid, depth);
  }
}

void Pyramid::add_stage(const Config& c, size_t stage, const PatchGrid& grid, int64_t depth) {
  const BlocksConfig b = blocks_of(c, c.stages[stage]);
  require_of_blocks("pyramid", b, capability::kBidirectional);
  for (int64_t i = 0; i < b.depth; ++i) {
    BlockOptions o;
    o.geometry = {.width = b.width,
                  .heads = b.heads,
                  .context = grid.count(),
                  .layer = i,
                  .depth = b.depth,
                  .init_std = kStd,
                  .output_init_std = kStd,
                  .grid_height = grid.rows,
                  .grid_width = grid.columns};
    o.drop_path = c.drop_path * static_cast<double>(blocks.size()) /
                  static_cast<double>(std::max<int64_t>(depth - 1, 1));
    blocks.push_back(std::make_unique<Block>(b, o));
  }
  stage_ends_.push_back(blocks.size());
}

Tensor Pyramid::logits(const Tensor& images, const ForwardContext& context) {
  Tensor x = patch_embedding(images);
  if (positions.defined()) x = x + positions;
  Residual r{drop(x)};
  AttentionContext attention{.layer = context.layer};
  for (size_t i = 0, stage = 0; i < blocks.size(); ++i) {
    if (i == stage_ends_[stage]) r = {(*mergings[stage++])(r.sum())};
    attention.positions =
        arange(0, static_cast<double>(r.x.size(1)), 1, {DType::i64, images.device()});
    r = (*blocks[i])(r, attention);
  }
  return head(mean(norm(r).y, {1}));
}

}  // namespace tessera
