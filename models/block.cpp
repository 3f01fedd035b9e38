#include "tessera/models/block.h"

namespace tessera {
namespace {

FeedForwardGeometry feed_forward_geometry(const BlockOptions& o) {
  return {.width = o.geometry.width,
          .bias = o.geometry.bias,
          .dropout = o.dropout,
          .init_std = o.geometry.init_std,
          .output_init_std = o.geometry.output_init_std};
}

}  // namespace

Block::Block(const Choice<Attention>& attention_choice,
             const Choice<FeedForward>& feed_forward_choice, const BlockOptions& o)
    : norm1(o.norm, o.geometry.width, o.norm_eps, o.geometry.bias),
      attention(attention_choice.build(o.geometry)),
      norm2(o.norm, o.geometry.width, o.norm_eps, o.geometry.bias),
      feed_forward(feed_forward_choice.build(feed_forward_geometry(o))),
      drop(o.dropout),
      drop_path(o.drop_path) {}

Residual Block::operator()(const Residual& in, const AttentionContext& context) {
  const AddNormResult a = norm1(in);
  const Tensor mixed = drop_path(drop((*attention)(a.y, context)));
  const AddNormResult b = norm2(Residual{a.sum, mixed});
  return {b.sum, drop_path((*feed_forward)(b.y))};
}

}  // namespace tessera
