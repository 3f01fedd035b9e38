// Neighborhood attention on the grid of a vision backbone.
#pragma once

#include "tessera/attention/engines/windows.h"
#include "tessera/attention/self_attention.h"

namespace tessera {

// Every patch sees the window × window patches around it, shifted inward at borders, of its own
// residue modulo the dilation (Hassani et al. 2023, "Neighborhood Attention Transformer"; Hassani &
// Shi 2022, dilated): cost N · window² per head. With bias, scores get an entry of a learned table
// (H, 2 window − 1, 2 window − 1) by relative place. A window larger than the grid (a line of it,
// when dilated) is cut to it.
struct NeighborhoodLayer final : SelfAttention {
  struct Config : ProjectionConfig {
    int64_t window = 7;
    int64_t dilation = 1;
    bool position_bias = true;
    TESSERA_FIELDS(f)
    {
      projection_fields(f);
      f("window", window, "side of the neighborhood in patches").min(1).max(1 << 12);
      f("dilation", dilation, "distance of neighbours in patches").min(1).max(1 << 12);
      f("position_bias", position_bias, "a learned bias of scores by relative place");
    }
  };
  static void capabilities(Capabilities& c);

  Tensor bias;  // (H, 2 rows − 1, 2 columns − 1) of the window

  NeighborhoodLayer(const Config& config, const Geometry& g);
  void members(Members& m) override;

 protected:
  AttentionResult attend(const Tensor& q, const Tensor& k, const Tensor& v,
                         const AttentionOptions& options, const AttentionContext& context) override;

 private:
  WindowRule windows_;
};

}  // namespace tessera
