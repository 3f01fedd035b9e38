// The decoder-only language model, in a GPT-2 and a Llama variant by config.
#pragma once

#include "tessera/models/block.h"
#include "tessera/models/model.h"
#include "tessera/nn/linear.h"
#include "tessera/nn/positions.h"

namespace tessera {

// x = embed(tokens) (+ positions); blocks; final norm (pre-norm blocks only); logits = x W_headᵀ.
// With an embedding_width e: x = W_e embed(tokens), logits = (W_d x) W_headᵀ, W_head (V, e).
//   GPT-2 (Radford et al. 2019): layer norm, learned positions, mlp with gelu_tanh, biases, tied
//   head. Llama (Touvron et al. 2023): rms norm, rotary positions, glu, no biases.
struct Transformer final : LanguageModel {
  struct Config : BlocksConfig {
    std::optional<int64_t> head_dim;
    std::optional<int64_t> embedding_width;
    double target_dropout = 0;
    Choice<Positions> positions{"learned"};
    bool bias = true;
    bool tied = true;
    double init_std = 0.02;
    bool checkpoint = false;

    TESSERA_FIELDS(f)
    {
      block_fields(f);
      f("head_dim", head_dim, "width of a head; default width / heads").min(1).max(1 << 16);
      f("embedding_width", embedding_width,
        "of the token embedding, with a matrix to the stream and one back; default: width")
          .min(1)
          .max(1 << 20);
      f("target_dropout", target_dropout, "share of input tokens replaced by token 0 in training")
          .min(0)
          .below(1);
      f("positions", positions, "how the model knows where tokens are");
      f("bias", bias, "biases in linear layers and layer norms");
      f("tied", tied, "the head shares the token embedding");
      f("init_std", init_std, "deviation of initial weights; branches end with std / sqrt(2 depth)")
          .above(0);
      f("checkpoint", checkpoint, "recompute blocks in backward to save memory");
    }
  };

  Embedding embedding;
  std::optional<Linear> widen, narrow;  // between the embedding's width and the stream's
  std::unique_ptr<Positions> positions;
  Dropout drop;
  std::vector<std::unique_ptr<Block>> blocks;
  std::optional<Norm> norm;  // none where every block ends with one
  std::optional<Linear> lm_head;

  Transformer(const Config& config, const DataInfo& input);
  Tensor hidden(const Tensor& tokens, const ForwardContext& context) override;
  Tensor head() const override { return lm_head ? lm_head->weight : embedding.weight; }
  int64_t context_length() const override { return context_; }
  bool takes_lengths() const override { return takes_lengths_; }
  std::vector<KvCache> make_caches(const CacheOptions& options = {}) const override;
  TESSERA_MEMBERS(embedding, widen, narrow, positions, drop, blocks, norm, lm_head)

 private:
  Tensor embed(const Tensor& tokens, const Tensor& at);

  int64_t context_;
  double target_dropout_;
  bool checkpoint_;
  bool cached_;  // every mechanism can go on from a cache
  bool takes_lengths_;
};

}  // namespace tessera
