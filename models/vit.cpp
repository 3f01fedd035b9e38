#include "tessera/models/vit.h"

#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/matmul.h"
#include "tessera/autograd/ops/reduce.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/core/create.h"
#include "tessera/nn/init.h"

namespace tessera {
namespace {

TESSERA_REGISTER(Model, Vit, "vit", "image transformer with dense tokens (ViT, DeiT)",
                 "Dosovitskiy et al. 2021; Touvron et al. 2021");

constexpr double kStd = 0.02;

int64_t patches_of(const Vit::Config& c, const DataInfo& in) {
  check(in.classes > 0 && in.height > 0 && in.width > 0,
        "vit: wants images with classes, but the data has {} x {} pixels and {} classes", in.height,
        in.width, in.classes);
  check(
      in.height % c.patch == 0 && in.width % c.patch == 0,
      "vit: patch {} does not divide an image of {} x {}; change model.patch or resize the images",
      c.patch, in.height, in.width);
  return in.height / c.patch * (in.width / c.patch);
}

BlockOptions block_options(const Vit::Config& c, const DataInfo& in, int64_t layer) {
  BlockOptions o;
  o.geometry = {.width = c.width,
                .heads = c.heads,
                .context = patches_of(c, in) + 1 + c.distilled,
                .layer = layer,
                .depth = c.depth,
                .init_std = kStd,
                .output_init_std = kStd,
                .grid_height = in.height / c.patch,
                .grid_width = in.width / c.patch,
                .prefix = 1 + c.distilled};
  o.drop_path = c.depth > 1
                    ? c.drop_path * static_cast<double>(layer) / static_cast<double>(c.depth - 1)
                    : c.drop_path;
  return o;
}

}  // namespace

PatchEmbedding::PatchEmbedding(int64_t channels, int64_t patch, int64_t width)
    : weight(parameter(
          init::fan_in_uniform({width, channels, patch, patch}, channels * patch * patch))),
      bias(parameter(init::fan_in_uniform({width}, channels * patch * patch))) {}

Tensor PatchEmbedding::operator()(const Tensor& images) const {
  const int64_t p = weight.size(2);
  const int64_t rows = images.size(2) / p;
  const int64_t columns = images.size(3) / p;
  Tensor x = images.to(weight.dtype());
  x = reshape(x, {images.size(0), images.size(1), rows, p, columns, p});
  x = permute(x, {0, 2, 4, 1, 3, 5});
  x = reshape(x, {images.size(0), rows * columns, images.size(1) * p * p});
  return linear(x, flatten(weight, 1), bias);
}

Vit::Vit(const Config& c, const DataInfo& in)
    : patch_embedding(in.channels, c.patch, c.width),
      class_token(parameter(init::truncated_normal({1, 1, c.width}, kStd))),
      positions(parameter(
          init::truncated_normal({1, patches_of(c, in) + 1 + c.distilled, c.width}, kStd))),
      drop(c.dropout),
      head(Linear::truncated_normal(c.width, in.classes, true, kStd)),
      input_(in),
      mean_pool_(c.pool == "mean") {
  require_of_blocks("vit", c, capability::kBidirectional);
  for (int64_t i = 0; i < c.depth; ++i) {
    blocks.push_back(std::make_unique<Block>(c, block_options(c, in, i)));
  }
  if (c.residual == "pre") norm.emplace(c.norm, c.width, c.norm_eps);
  if (!c.distilled) return;
  distillation_token = parameter(init::truncated_normal({1, 1, c.width}, kStd));
  distillation_head.emplace(Linear::truncated_normal(c.width, in.classes, true, kStd));
}

Tensor Vit::features(const Tensor& images, const ForwardContext& context) {
  check(images.rank() == 4 && images.size(1) == input_.channels &&
            images.size(2) == input_.height && images.size(3) == input_.width,
        "vit: images {} do not fit the model's (B, {}, {}, {})", images.shape(), input_.channels,
        input_.height, input_.width);
  const Tensor patches = patch_embedding(images);
  const int64_t batch = images.size(0);
  const int64_t width = patches.size(2);
  TensorList tokens = {expand(class_token, {batch, 1, width})};
  if (distillation_token.defined()) tokens.push_back(expand(distillation_token, {batch, 1, width}));
  tokens.push_back(patches);
  Residual x{drop(concat(tokens, 1) + positions)};
  AttentionContext attention{.layer = context.layer};
  attention.positions =
      arange(0, static_cast<double>(x.x.size(1)), 1, {DType::i64, images.device()});
  for (auto& block : blocks) x = (*block)(x, attention);
  return norm ? (*norm)(x).y : x.sum();
}

std::pair<Tensor, Tensor> Vit::both_logits(const Tensor& images, const ForwardContext& context) {
  check(distillation_head.has_value(), "vit: both_logits wants \"distilled\": true");
  const Tensor x = features(images, context);
  return {head(select(x, 1, 0)), (*distillation_head)(select(x, 1, 1))};
}

Tensor Vit::logits(const Tensor& images, const ForwardContext& context) {
  if (distillation_head) {
    const auto [class_logits, distilled] = both_logits(images, context);
    return (class_logits + distilled) * 0.5;
  }
  const Tensor x = features(images, context);
  return head(mean_pool_ ? mean(slice(x, 1, 1), {1}) : select(x, 1, 0));
}

}  // namespace tessera
