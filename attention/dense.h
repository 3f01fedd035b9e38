// Multi-head attention over all (earlier) tokens.
#pragma once

#include "tessera/attention/self_attention.h"

namespace tessera {

// softmax(q kᵀ / sqrt(D)) v per head (Vaswani et al. 2017), with grouped key heads.
struct DenseAttentionLayer final : SelfAttention {
  struct Config : ProjectionConfig {
    TESSERA_FIELDS(f)
    { projection_fields(f); }
  };

  DenseAttentionLayer(const Config& config, const Geometry& g)
      : SelfAttention("dense", config, g) {}

 protected:
  AttentionResult attend(const Tensor& q, const Tensor& k, const Tensor& v,
                         const AttentionOptions& options, const AttentionContext& context) override;
  AttentionResult decode(const Tensor& q, const KvCache& cache, const AttentionOptions& options,
                         const AttentionContext& context) override;
};

}  // namespace tessera
