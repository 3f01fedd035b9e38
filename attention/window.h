// Sliding-window attention in one dimension.
#pragma once

#include "tessera/attention/self_attention.h"

namespace tessera {

// Token i sees tokens i − window … i, and as many after it where the model looks both ways
// (Beltagy et al. 2020, "Longformer"; Child et al. 2019): cost N · (window + 1) per head.
struct WindowAttention final : SelfAttention {
  struct Config : ProjectionConfig {
    int64_t window = 64;
    TESSERA_FIELDS(f)
    {
      projection_fields(f);
      f("window", window, "how many tokens before (and after) a token it sees").min(0).max(1 << 28);
    }
  };

  WindowAttention(const Config& config, const Geometry& g)
      : SelfAttention("window", config, g), window_(config.window) {}

 protected:
  AttentionResult attend(const Tensor& q, const Tensor& k, const Tensor& v,
                         const AttentionOptions& options, const AttentionContext& context) override;

 private:
  int64_t window_;
};

}  // namespace tessera
