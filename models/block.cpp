#include "tessera/models/block.h"

#include "tessera/autograd/custom.h"

namespace tessera {
namespace {

FeedForwardGeometry feed_forward_geometry(const Geometry& g, double dropout) {
  return {.width = g.width,
          .bias = g.bias,
          .dropout = dropout,
          .init_std = g.init_std,
          .output_init_std = g.output_init_std,
          .layer = g.layer,
          .depth = g.depth};
}

// The last entry that names the layer and has the member; null when none does.
template <class T>
const T* last_choice(const BlocksConfig& c, int64_t layer, std::optional<T> LayerChoice::*member) {
  const T* found = nullptr;
  for (const LayerChoice& choice : c.layers) {
    for (const int64_t at : choice.at) {
      check(at >= -c.depth && at < c.depth, "model.layers: there is no layer {} of {}", at,
            c.depth);
      if ((at < 0 ? at + c.depth : at) == layer && choice.*member) found = &*(choice.*member);
    }
  }
  return found;
}

}  // namespace

const Choice<Attention>& BlocksConfig::attention_of(int64_t layer) const {
  const auto* own = last_choice(*this, layer, &LayerChoice::attention);
  return own != nullptr ? *own : attention;
}

const Choice<FeedForward>& BlocksConfig::feed_forward_of(int64_t layer) const {
  const auto* own = last_choice(*this, layer, &LayerChoice::feed_forward);
  return own != nullptr ? *own : feed_forward;
}

bool every_attention(const BlocksConfig& c, std::string_view capability) {
  for (int64_t i = 0; i < c.depth; ++i) {
    if (c.attention_of(i).entry().unsupported(capability)) return false;
  }
  return true;
}

void require_of_blocks(std::string_view user, const BlocksConfig& c, std::string_view capability) {
  for (int64_t i = 0; i < c.depth; ++i) require_capability(user, c.attention_of(i), capability);
}

Block::Block(const BlocksConfig& c, const BlockOptions& o)
    : norm1(c.norm, c.width, c.norm_eps, o.geometry.bias),
      attention(c.attention_of(o.geometry.layer).build(o.geometry)),
      norm2(c.norm, c.width, c.norm_eps, o.geometry.bias),
      feed_forward(
          c.feed_forward_of(o.geometry.layer).build(feed_forward_geometry(o.geometry, c.dropout))),
      drop(c.dropout),
      drop_path(o.drop_path),
      post_(c.residual == "post") {}

Residual Block::operator()(const Residual& in, const AttentionContext& context) {
  return post_ ? post(in.sum(), context) : pre(in, context);
}

Residual Block::pre(const Residual& in, const AttentionContext& context) {
  const AddNormResult a = norm1(in);
  const Tensor mixed = drop_path(drop((*attention)(a.y, context)));
  const AddNormResult b = norm2(Residual{a.sum, mixed});
  probe("middle", b.sum);
  const Tensor y = drop_path((*feed_forward)(b.y, context.layer));
  return feed_forward->residual() ? Residual{b.sum, y} : Residual{y};
}

Residual Block::post(const Tensor& x, const AttentionContext& context) {
  const Tensor a = norm1(Residual{x, drop_path(drop((*attention)(x, context)))}).y;
  const Tensor y = drop_path((*feed_forward)(a, context.layer));
  return {norm2(feed_forward->residual() ? Residual{a, y} : Residual{y}).y};
}

Residual recomputed(Block& block, const Residual& x, const AttentionContext& context) {
  const auto segment = [&block, context](const TensorList& in) {
    Auxiliary own;
    AttentionContext c = context;
    if (c.layer.auxiliary != nullptr) c.layer.auxiliary = &own;
    TensorList out = {block(Residual{in[0]}, c).sum()};
    out.insert(out.end(), own.losses.begin(), own.losses.end());
    return out;
  };
  const TensorList out = checkpoint(segment, {x.sum()});
  for (size_t i = 1; i < out.size(); ++i) context.layer.add_loss(out[i]);
  return {out[0]};
}

}  // namespace tessera
