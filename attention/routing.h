// Routing attention (Roy, Saffar, Vaswani, Grangier 2021, "Efficient Content-Based Sparse Attention
// with Routing Transformers"): some heads see their block and the one before, the others attend
// inside clusters of tokens found by an online k-means.
#pragma once

#include "tessera/attention/attention.h"
#include "tessera/attention/centroids.h"
#include "tessera/attention/engines/engine.h"
#include "tessera/nn/linear.h"

namespace tessera {

struct RoutingConfig : CentroidConfig {
  std::optional<int64_t> routing_heads;
  int64_t window = 32;
  int64_t block = 32;
  bool share_qk = true;
  std::string selection = "clusters";
  double commitment = 1e-4;
  bool mask_self = false;
  int64_t relative = 0;
  bool per_head_post_dense = false;
  std::optional<double> route_scale;
  int64_t skip_first = 0;
  double scatter_eps = 0.01;
  bool bias = false;
  TESSERA_FIELDS(f)
  {
    f("routing_heads", routing_heads, "heads that route, the others are local; default: half")
        .min(0)
        .max(1 << 16);
    centroid_fields(f);
    f("window", window, "tokens that a cluster takes").min(1).max(1 << 28);
    f("block", block, "local heads see their block of so many tokens and the one before")
        .min(1)
        .max(1 << 28);
    f("share_qk", share_qk, "routing heads use their queries as keys");
    f("selection", selection,
      "who meets in a cluster: those nearest to its centroid, a random choice, those of a hash, or "
      "every so many-th by nearness")
        .one_of({"clusters", "random", "hash", "strided"});
    f("commitment", commitment, "weight of the distance of tokens to their centroid").min(0);
    f("mask_self", mask_self, "a token sees itself only where it sees nobody else");
    f("relative", relative, "largest relative position with vectors of its own; 0: none")
        .min(0)
        .max(1 << 16);
    f("per_head_post_dense", per_head_post_dense, "one more matrix, the same for every head");
    f("route_scale", route_scale, "of products in routing heads; default 1 / sqrt(head_dim)")
        .above(0);
    f("skip_first", skip_first, "in so many first layers all heads are local").min(0).max(1 << 14);
    f("scatter_eps", scatter_eps, "added to the number of clusters that took a token").min(0);
    f("bias", bias, "biases in the projections");
  }
};

// Vectors of relative positions (Shaw et al. 2018): scores get ⟨q_i, RK[j − i]⟩ and outputs
// Σ_j a_ij RV[j − i], with j − i clipped at ±R.
struct RelativeVectors : Module {
  Tensor key, value;  // (2R + 1, d)

  RelativeVectors(int64_t reach, int64_t head_dim, double init_std);
  TESSERA_MEMBERS(key, value)
};

// x (B, N, width) → q, k, v (B, H, N, d), heads in the order routing, local. A routing head:
//   q ← LN₀(q), k ← LN₀(k) (no gain, no bias, ε 1e-6), k = q with share_qk
//   I_c = the `window` tokens nearest to centroid M_c (centroids.h), ties to the lowest, sorted
//   o^c = softmax(route_scale · q[I_c] k[I_c]ᵀ) v[I_c], causal by position
//   o_t = Σ_{c: t ∈ I_c} o^c_t / (number of such c + scatter_eps); 0 where no cluster took t
// and a loss commitment · mean ‖x − M_nearest‖² / d for queries and for keys (twice with share_qk).
// Local heads: span block_prev (span.h). Rotary positions turn queries and keys first.
//
// Not differentiable: the choice of tokens, nearest centroids, the moves of M. Gradients reach q, k
// and v through the gathered rows and the commitment. A later token can push an earlier one out of
// a cluster: membership, never values, looks ahead; strict_routing does not.
//
// Lists go to the grouped gather engine. With `relative`, clusters and blocks are written out in
// plain operations instead (the engines give no second sum of the probabilities): local heads count
// tokens, routing heads ranks in the list of a cluster.
struct RoutingAttention : Attention {
  using Config = RoutingConfig;
  static void capabilities(Capabilities& c);

  Linear qkv, out;
  std::optional<Linear> post;
  std::optional<RelativeVectors> local_relative, routing_relative;
  std::optional<Centroids> centroids;
  Tensor directions;  // of `hash`: (H, log₂ C, d)

  RoutingAttention(const Config& config, const Geometry& g)
      : RoutingAttention("routing", config, g) {}
  Tensor operator()(const Tensor& x, const AttentionContext& context) override;
  void members(Members& m) override;

 protected:
  // Of routing heads (queries and keys after LN₀), or of local ones.
  struct Heads {
    Tensor q, k, v;  // (B, H, N, d)
  };
  // Where queries or keys belong.
  struct Placed {
    Tensor points;    // what centroids are compared with
    Tensor nearness;  // to clusters, (B, H, C, N)
    Tensor nearest;   // (B, H, N)
  };

  RoutingAttention(std::string_view name, const Config& config, const Geometry& g);
  // All heads, in their order.
  virtual Tensor mixed(const Heads& routing, const Heads& local, const AttentionContext& context);
  // Routing heads whose tokens have been placed.
  virtual Tensor meet(const Heads& heads, const Placed& q, const Placed& k,
                      const AttentionContext& context) const;
  Placed place(const Tensor& x, const Tensor& hidden) const;
  Tensor route(const Heads& heads, const AttentionContext& context);
  Tensor local(const Heads& heads, const AttentionContext& context) const;
  AttentionOptions routing_options(const AttentionContext& context) const;

  Config c_;
  std::string name_;
  int64_t heads_, head_dim_, routing_;

 private:
  Tensor lists(const Tensor& nearness) const;
  Tensor relative_meet(const Heads& heads, const Tensor& queries, const Tensor& keys,
                       const AttentionContext& context) const;
  Tensor relative_local(const Heads& heads, const AttentionContext& context) const;
  void add_losses(const Placed& q, const Placed& k, const Tensor& hidden,
                  const AttentionContext& context) const;
};

// The causal form that looks at nothing later: a token attends to the last `window` tokens, itself
// included, that have the same nearest centroid (queries are keys). Brought into the order of
// clusters, that is a window of the dense engine. A cache keeps nearest centroids beside keys and
// values, and gathers.
struct StrictRouting final : RoutingAttention {
  static void capabilities(Capabilities& c);
  StrictRouting(const Config& config, const Geometry& g);

 protected:
  Tensor mixed(const Heads& routing, const Heads& local, const AttentionContext& context) override;
  Tensor meet(const Heads& heads, const Placed& q, const Placed& k,
              const AttentionContext& context) const override;

 private:
  Tensor meet_past(const Tensor& q, const Tensor& key, const Tensor& value, const Tensor& nearest,
                   KvCache& cache) const;
};

}  // namespace tessera
