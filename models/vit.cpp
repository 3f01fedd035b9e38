#include "tessera/models/vit.h"

#include "tessera/autograd/ops/arithmetic.h"
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
constexpr double kUncut = 100;  // so many deviations are never reached

int64_t patches_of(const Vit::Config& c, const DataInfo& in) {
  check(in.classes > 0, "vit: the data has no classes; it wants labelled images");
  return grid_of("vit", in, c.patch).count();
}

// Tokens before the patches that a layer sees.
int64_t prefix_of(const Vit::Config& c, int64_t layer) {
  return layer < c.class_token_layer ? 0 : 1 + c.distilled;
}

BlockOptions block_options(const Vit::Config& c, const DataInfo& in, int64_t layer) {
  BlockOptions o;
  o.geometry = {.width = c.width,
                .heads = c.heads,
                .context = patches_of(c, in) + prefix_of(c, layer),
                .layer = layer,
                .depth = c.depth,
                .init_std = kStd,
                .output_init_std = kStd,
                .grid_height = in.height / c.patch,
                .grid_width = in.width / c.patch,
                .prefix = prefix_of(c, layer)};
  o.drop_path = c.depth > 1
                    ? c.drop_path * static_cast<double>(layer) / static_cast<double>(c.depth - 1)
                    : c.drop_path;
  return o;
}

}  // namespace

Tensor Vit::tokens(int64_t count, const Config& c) {
  return parameter(init::truncated_normal({1, count, c.width}, c.token_std, kUncut * c.token_std));
}

Vit::Vit(const Config& c, const DataInfo& in)
    : patch_embedding(in.channels, c.patch, c.width, c.patch_norm),
      class_token(c.class_token_layer < c.depth ? tokens(1, c) : Tensor()),
      positions(tokens(patches_of(c, in) + prefix_of(c, 0), c)),
      drop(c.dropout),
      head(Linear::truncated_normal(c.width, in.classes, true, kStd)),
      input_(in),
      mean_pool_(c.pool == "mean"),
      class_token_layer_(c.class_token_layer) {
  check(
      class_token_layer_ < c.depth || (class_token_layer_ == c.depth && mean_pool_ && !c.distilled),
      "vit: the class token cannot join before layer {} of {} when the head sees it; change "
      "model.class_token_layer, or model.pool to \"mean\"",
      class_token_layer_, c.depth);
  require_of_blocks("vit", c, capability::kBidirectional);
  for (int64_t i = 0; i < c.depth; ++i) {
    blocks.push_back(std::make_unique<Block>(c, block_options(c, in, i)));
  }
  if (c.residual == "pre") norm.emplace(c.norm, c.width, c.norm_eps);
  if (!c.distilled) return;
  distillation_token = tokens(1, c);
  distillation_head.emplace(Linear::truncated_normal(c.width, in.classes, true, kStd));
}

Tensor Vit::features(const Tensor& images, const ForwardContext& context) {
  check(images.rank() == 4 && images.size(1) == input_.channels &&
            images.size(2) == input_.height && images.size(3) == input_.width,
        "vit: images {} do not fit the model's (B, {}, {}, {})", images.shape(), input_.channels,
        input_.height, input_.width);
  const Tensor patches = patch_embedding(images);
  Residual x{drop((class_token_layer_ == 0 ? with_tokens(patches) : patches) + positions)};
  AttentionContext attention{.layer = context.layer};
  for (size_t i = 0; i < blocks.size(); ++i) {
    if (i > 0 && static_cast<int64_t>(i) == class_token_layer_) x = {with_tokens(x.sum())};
    attention.positions =
        arange(0, static_cast<double>(x.x.size(1)), 1, {DType::i64, images.device()});
    x = (*blocks[i])(x, attention);
  }
  return norm ? (*norm)(x).y : x.sum();
}

Tensor Vit::with_tokens(const Tensor& x) const {
  TensorList tokens;
  for (const Tensor& token : {class_token, distillation_token}) {
    if (token.defined()) tokens.push_back(expand(token, {x.size(0), 1, x.size(2)}));
  }
  tokens.push_back(x);
  return concat(tokens, 1);
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
  return head(mean_pool_ ? mean(slice(x, 1, class_token.defined()), {1}) : select(x, 1, 0));
}

}  // namespace tessera
