// What mechanisms with one query, key and value per token have in common.
#pragma once

#include "tessera/attention/attention.h"
#include "tessera/attention/engines/engine.h"
#include "tessera/nn/linear.h"

namespace tessera {

struct ProjectionConfig {
  std::optional<int64_t> kv_heads;
  std::optional<bool> bias;
  std::optional<bool> qkv_bias;
  // For the listing of a mechanism's own Config.
  void projection_fields(Fields& f) {
    f("kv_heads", kv_heads, "heads of keys and values; default: as many as heads")
        .min(1)
        .max(1 << 16);
    f("bias", bias, "biases in the projections; default: as the model says");
    f("qkv_bias", qkv_bias, "of queries, keys and values alone; default: bias");
  }
};

// Multi-head self-attention around an engine: one matrix gives [q | k | v], each part split into
// contiguous heads, key heads shared by groups of query heads (Ainslie et al. 2023); positions
// rotate queries and keys; a cache puts the past in front of them; heads are merged and projected.
// A mechanism says what its heads attend to, in `attend`, and what they are, in `shaped`.
class SelfAttention : public Attention {
 public:
  Linear qkv, out;

  SelfAttention(std::string_view name, const ProjectionConfig& config, const Geometry& g);
  Tensor operator()(const Tensor& x, const AttentionContext& context) final;
  TESSERA_MEMBERS(qkv, out)

 protected:
  struct Heads {
    Tensor q, k, v;  // (B, H, N, D), (B, Hk, N, D) twice
  };
  // What becomes of the projections of x before positions turn queries and keys and a cache takes
  // keys and values: nothing, unless a mechanism changes them.
  virtual Heads shaped(Heads heads, const Tensor& x, const AttentionContext& context) const;
  // q (B, H, N, D), k and v (B, Hk, M, D), rotated, the past included. `options` has what the
  // context asks for: causal, lengths, the bias of positions.
  virtual AttentionResult attend(const Tensor& q, const Tensor& k, const Tensor& v,
                                 const AttentionOptions& options,
                                 const AttentionContext& context) = 0;
  // The same of few new tokens over what the cache holds, they included; an undefined result where
  // `attend` is to do it.
  virtual AttentionResult decode(const Tensor& q, const KvCache& cache,
                                 const AttentionOptions& options, const AttentionContext& context);
  // Of new tokens whose past is in the cache, which takes them in: through `decode` or, over all
  // that is stored, `attend`.
  virtual AttentionResult attend_past(const Tensor& q, const Tensor& k, const Tensor& v,
                                      const AttentionOptions& options,
                                      const AttentionContext& context);

 private:
  AttentionResult attend_each(const Tensor& q, const AttentionOptions& options,
                              const AttentionContext& context);

  int64_t heads_;
  int64_t kv_heads_;
  int64_t head_dim_;
};

// While one lives, every SelfAttention also probes "weights" (B, H, N, M): the matrix that its
// values are multiplied with, whatever the engine. It is what `attend` makes of the identity as
// values, so it costs N² M: for short inputs.
class WeightsScope {
 public:
  WeightsScope();
  ~WeightsScope();
  // For mechanisms that do not derive from SelfAttention: whether one lives, and the identity that
  // they attend to in place of values, for keys (B, H, M, D).
  static bool is_open();
  static Tensor values(const Tensor& k);
  WeightsScope(const WeightsScope&) = delete;
  WeightsScope& operator=(const WeightsScope&) = delete;
};

}  // namespace tessera
