// The residual block shared by the backbones, and the part of their configs that says what blocks
// are made of.
#pragma once

#include "tessera/attention/attention.h"
#include "tessera/nn/dropout.h"
#include "tessera/nn/feed_forward.h"
#include "tessera/nn/norm.h"

namespace tessera {

// Other choices for some layers: {"at": [0, 6], "attention": "dense"}.
struct LayerChoice {
  std::vector<int64_t> at;
  std::optional<Choice<Attention>> attention;
  std::optional<Choice<FeedForward>> feed_forward;
  TESSERA_FIELDS(f)
  {
    f("at", at, "which layers, from 0; negative ones count from the end").min(-(1 << 14));
    f("attention", attention, "their token mixer");
    f("feed_forward", feed_forward, "their position-wise part");
  }
};

// What a backbone is made of; a base of its Config.
struct BlocksConfig {
  int64_t width = 128;
  int64_t depth = 4;
  int64_t heads = 4;
  Choice<Attention> attention{"dense"};
  Choice<FeedForward> feed_forward{"mlp"};
  std::vector<LayerChoice> layers;
  std::string norm = "layer";
  double norm_eps = 1e-5;
  std::string residual = "pre";
  double dropout = 0;

  void block_fields(Fields& f) {
    f("width", width, "size of the residual stream").min(1).max(1 << 20);
    f("depth", depth, "number of blocks").min(1).max(1 << 14);
    f("heads", heads, "attention heads").min(1).max(1 << 16);
    f("attention", attention, "the token mixer of every block");
    f("feed_forward", feed_forward, "the position-wise part of every block");
    f("layers", layers, "layers with another mixer or position-wise part; later entries win");
    f("norm", norm, "normalisation").one_of({"layer", "rms"});
    f("norm_eps", norm_eps, "added to the variance").above(0);
    f("residual", residual, "pre: x + f(norm x), with a norm at the end; post: norm(x + f(x))")
        .one_of({"pre", "post"});
    f("dropout", dropout, "after the embedding and every branch").min(0).below(1);
  }

  // What layer `layer` is made of. Throws for an entry of `layers` that names none of them.
  const Choice<Attention>& attention_of(int64_t layer) const;
  const Choice<FeedForward>& feed_forward_of(int64_t layer) const;
};

// Whether the mechanism of every layer has a capability; require_ throws
// `user: attention "x" does not support …` for the first that has not.
bool every_attention(const BlocksConfig& config, std::string_view capability);
void require_of_blocks(std::string_view user, const BlocksConfig& config,
                       std::string_view capability);

struct BlockOptions {
  Geometry geometry;  // with the layer
  double drop_path = 0;
};

// pre:  x ← x + DropPath(Dropout(Attention(Norm₁ x)));  x ← x + DropPath(FeedForward(Norm₂ x))
// post: x ← Norm₁(x + DropPath(Dropout(Attention(x))));  x ← Norm₂(x + DropPath(FeedForward(x)))
// A feed-forward without residual gives the new x itself. Every sum is formed by the norm that
// reads it, the last one of a pre-norm block by whoever reads the result.
struct Block : Module {
  Norm norm1;
  std::unique_ptr<Attention> attention;
  Norm norm2;
  std::unique_ptr<FeedForward> feed_forward;
  Dropout drop;
  DropPath drop_path;

  Block(const BlocksConfig& config, const BlockOptions& options);
  Residual operator()(const Residual& in, const AttentionContext& context);
  TESSERA_MEMBERS(norm1, attention, norm2, feed_forward, drop, drop_path)

 private:
  Residual pre(const Residual& in, const AttentionContext& context);
  Residual post(const Tensor& x, const AttentionContext& context);
  bool post_;
};

// block(x, context) that keeps nothing for backward but its input; auxiliary losses included.
Residual recomputed(Block& block, const Residual& x, const AttentionContext& context);

}  // namespace tessera
