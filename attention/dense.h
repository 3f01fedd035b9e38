// Multi-head attention over all (earlier) tokens.
#pragma once

#include "tessera/attention/attention.h"
#include "tessera/nn/dropout.h"
#include "tessera/nn/linear.h"

namespace tessera {

// softmax(q kᵀ / sqrt(D)) v per head, with grouped key heads (Vaswani et al. 2017; Ainslie et al.
// 2023, "GQA"). Projections: one matrix gives [q | k | v], each part split into contiguous heads.
struct DenseAttentionLayer final : Attention {
  struct Config {
    std::optional<int64_t> kv_heads;
    std::optional<bool> bias;
    TESSERA_FIELDS(f)
    {
      f("kv_heads", kv_heads, "heads of keys and values; default: as many as heads")
          .min(1)
          .max(1 << 16);
      f("bias", bias, "biases in the projections; default: as the model says");
    }
  };
  Linear qkv, out;

  DenseAttentionLayer(const Config& config, const Geometry& g);
  Tensor operator()(const Tensor& x, const AttentionContext& context) override;
  TESSERA_MEMBERS(qkv, out)

 private:
  int64_t heads_;
  int64_t kv_heads_;
  int64_t head_dim_;
};

}  // namespace tessera
