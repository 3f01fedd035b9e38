#include "tessera/models/block.h"

#include "tessera/autograd/ops/arithmetic.h"

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

Tensor Block::operator()(const Tensor& x, const AttentionContext& context) {
  const Tensor mixed = x + drop_path(drop((*attention)(norm1(x), context)));
  return mixed + drop_path((*feed_forward)(norm2(mixed)));
}

}  // namespace tessera
