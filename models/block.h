// The pre-norm residual block shared by the decoder and the vision backbone.
#pragma once

#include "tessera/attention/attention.h"
#include "tessera/nn/dropout.h"
#include "tessera/nn/feed_forward.h"
#include "tessera/nn/norm.h"

namespace tessera {

struct BlockOptions {
  Geometry geometry;
  std::string norm = "layer";
  double norm_eps = 1e-5;
  double dropout = 0;
  double drop_path = 0;
};

// x ← x + DropPath(Dropout(Attention(Norm₁ x)));  x ← x + DropPath(FeedForward(Norm₂ x))
// Every sum is formed by the norm that reads it, the last one by whoever reads the result.
struct Block : Module {
  Norm norm1;
  std::unique_ptr<Attention> attention;
  Norm norm2;
  std::unique_ptr<FeedForward> feed_forward;
  Dropout drop;
  DropPath drop_path;

  Block(const Choice<Attention>& attention_choice, const Choice<FeedForward>& feed_forward_choice,
        const BlockOptions& options);
  Residual operator()(const Residual& in, const AttentionContext& context);
  TESSERA_MEMBERS(norm1, attention, norm2, feed_forward, drop, drop_path)
};

}  // namespace tessera
