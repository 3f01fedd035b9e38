// The decoder-only language model, in a GPT-2 and a Llama variant by config.
#pragma once

#include "tessera/models/block.h"
#include "tessera/models/model.h"
#include "tessera/nn/linear.h"
#include "tessera/nn/positions.h"

namespace tessera {

// x = embed(tokens) (+ positions); pre-norm blocks; final norm; logits = x W_headᵀ.
//   GPT-2 (Radford et al. 2019): layer norm, learned positions, mlp with gelu_tanh, biases, tied
//   head. Llama (Touvron et al. 2023): rms norm, rotary positions, glu, no biases.
struct Transformer final : LanguageModel {
  struct Config {
    int64_t width = 128;
    int64_t depth = 4;
    int64_t heads = 4;
    std::optional<int64_t> head_dim;
    Choice<Attention> attention{"dense"};
    Choice<FeedForward> feed_forward{"mlp"};
    std::string norm = "layer";
    double norm_eps = 1e-5;
    Choice<Positions> positions{"learned"};
    bool bias = true;
    bool tied = true;
    double dropout = 0;
    double init_std = 0.02;
    bool checkpoint = false;

    TESSERA_FIELDS(f)
    {
      f("width", width, "size of the residual stream").min(1).max(1 << 20);
      f("depth", depth, "number of blocks").min(1).max(1 << 14);
      f("heads", heads, "attention heads").min(1).max(1 << 16);
      f("head_dim", head_dim, "width of a head; default width / heads").min(1).max(1 << 16);
      f("attention", attention, "the token mixer of every block");
      f("feed_forward", feed_forward, "the position-wise part of every block");
      f("norm", norm, "normalisation").one_of({"layer", "rms"});
      f("norm_eps", norm_eps, "added to the variance").above(0);
      f("positions", positions, "how the model knows where tokens are");
      f("bias", bias, "biases in linear layers and layer norms");
      f("tied", tied, "the head shares the token embedding");
      f("dropout", dropout, "after the embedding and every branch").min(0).below(1);
      f("init_std", init_std, "deviation of initial weights; branches end with std / sqrt(2 depth)")
          .above(0);
      f("checkpoint", checkpoint, "recompute blocks in backward to save memory");
    }
  };

  Embedding embedding;
  std::unique_ptr<Positions> positions;
  Dropout drop;
  std::vector<std::unique_ptr<Block>> blocks;
  Norm norm;
  std::optional<Linear> lm_head;

  Transformer(const Config& config, const DataInfo& input);
  Tensor hidden(const Tensor& tokens, const ForwardContext& context) override;
  Tensor head() const override { return lm_head ? lm_head->weight : embedding.weight; }
  int64_t context_length() const override { return context_; }
  int64_t cache_layers() const override { return static_cast<int64_t>(blocks.size()); }
  TESSERA_MEMBERS(embedding, positions, drop, blocks, norm, lm_head)

 private:
  int64_t context_;
  bool checkpoint_;
};

}  // namespace tessera
