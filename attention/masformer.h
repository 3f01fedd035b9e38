// Mixed attention spans (Zhang, Ram, Hawkins, Zha, Zhao 2023, "Efficient Long-Range Transformers:
// You Need to Attend More, but Not Necessarily at Every Layer", MASFormer): full attention in a few
// layers, those nearest to the embedding, and attention that is linear in the length in all others.
#pragma once

#include "tessera/attention/self_attention.h"
#include "tessera/attention/span.h"

namespace tessera {

// softmax(scale · q kᵀ) v over the span of the layer (span.h). Parameters are the same for every
// span, so weights trained with one serve any other. Differentiable as the engines are; which keys
// count does not depend on the data. No engine call is quadratic but that of a full layer, which is
// tiled. A cache keeps what the next token can see: everything, the current block (and the one
// before), or the window.
struct Masformer final : SelfAttention {
  struct Config : ProjectionConfig {
    int64_t full_layers = 1;
    std::string placement = "bottom";
    std::string local = "block:64";
    std::vector<std::string> spans;
    std::optional<double> scale;
    TESSERA_FIELDS(f)
    {
      projection_fields(f);
      f("full_layers", full_layers, "how many layers see everything").min(0).max(1 << 14);
      f("placement", placement, "which ones: those next to the embedding, to the head, or spread")
          .one_of({"bottom", "top", "interleave"});
      f("local", local, "span of the others: block:B, window:W, block_prev:B, full");
      f("spans", spans, "the span of every layer, instead of the three above");
      f("scale", scale, "of the products; default 1 / sqrt(head_dim); GPT-Neo's weights want 1")
          .above(0);
    }
    Span span(int64_t layer, int64_t depth) const;  // of layer `layer` of `depth`
  };

  Masformer(const Config& config, const Geometry& g);
  const Span& span() const { return span_; }
  KvCache make_cache(int64_t capacity, const CacheOptions& options) const override;

 protected:
  AttentionResult attend(const Tensor& q, const Tensor& k, const Tensor& v,
                         const AttentionOptions& options, const AttentionContext& context) override;
  AttentionResult decode(const Tensor& q, const KvCache& cache, const AttentionOptions& options,
                         const AttentionContext& context) override;
  AttentionResult attend_past(const Tensor& q, const Tensor& k, const Tensor& v,
                              const AttentionOptions& options,
                              const AttentionContext& context) override;

 private:
  AttentionOptions scaled(const AttentionOptions& options) const;

  Span span_;
  double scale_;
};

}  // namespace tessera
