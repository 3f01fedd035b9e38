// Selective self-attention: queries, keys and values have inverse temperatures of their own.
#pragma once

#include "tessera/attention/self_attention.h"

namespace tessera {

struct SelectiveConfig : ProjectionConfig {
  std::string query = "both";
  std::string key = "off";
  std::string value = "token";
  bool signed_values = false;
  std::string reader = "shared";
  int64_t hidden = 16;
  std::string coefficient = "sigmoid";
  std::optional<double> init_coefficient;
  TESSERA_FIELDS(f)
  {
    projection_fields(f);
    const std::vector<std::string> branch = {"both", "token", "position", "off"};
    f("query", query, "what the temperatures of queries depend on").one_of(branch);
    f("key", key, "what the temperatures of keys depend on").one_of(branch);
    f("value", value, "what the temperatures of values depend on").one_of(branch);
    f("signed_values", signed_values, "values' are tanh f: 0 at first, and of either sign");
    f("reader", reader, "f: of the branch's own projection, a vector, or a small network")
        .one_of({"shared", "linear", "mlp"});
    f("hidden", hidden, "inner width of the small network").min(1).max(1 << 16);
    f("coefficient", coefficient, "c of positions: sigmoid(α), exp(−exp α) or α")
        .one_of({"sigmoid", "gumbel", "linear"});
    f("init_coefficient", init_coefficient,
      "α at first; default 0, gumbel 2, linear 1e-5; to fine-tune with sigmoid: −4.6");
  }
};

// τ of one branch: 1 + tanh f(x) + c ln i.
struct Temperature : Module {
  std::optional<Linear> first;  // W₁ of "mlp"
  Tensor weight;                // w (H, d), (H, width) or (H, hidden); none without tokens
  Tensor alpha;                 // (H); none without positions

  Temperature(const SelectiveConfig& config, const std::string& depends, int64_t heads,
              const Geometry& g);
  // x (B, N, width), its projection (B, H, N, d), ln i (N), (B, N) or (B, 1) → what broadcasts to
  // (B, H, N, 1), in f32 or f64.
  Tensor operator()(const Tensor& x, const Tensor& projected, const Tensor& log_position) const;
  TESSERA_MEMBERS(first, weight, alpha)

 private:
  Tensor read(const Tensor& x, const Tensor& projected) const;
  Tensor of_position(const Tensor& log_position) const;

  std::string reader_, coefficient_;
};

// Scores and values scaled by what tokens are and where they stand (Zhang et al. 2024, "Selective
// Attention: Enhancing Transformer through Principled Context Control"; the authors' code has the
// positions alone, as "PTS"). With q, k, v (B, H, N, d) and τ (B, H, N, 1):
//   o_i = Σ_j softmax_j(τ^q(x_i, i) q_i · τ^k(x_j, j) k_j / √d) τ^v(x_j, j) v_j
//   τ(x, i) = 1 + tanh f(x) + c ln i
// i counts the keys that a causal query sees, all of them in both directions. f_h(x) is w_h·relu of
// the head's own projection ("shared": H d numbers), w_h·x ("linear") or w_h·gelu(W₁ x) ("mlp"); w
// starts at 0. c is per head. The engine sees ordinary queries, keys and values, which a cache
// stores. All of it is differentiable. There a value may have τ = tanh f alone (`signed_values`);
// here 1 is added unless asked otherwise, so that a fresh layer with c = 0 is plain attention.
// Evaluation reports "spikiness": the mean of 1 / (i Σ_j p_j²) over rows of probabilities, 1 for
// even ones, which takes a second pass of the engine.
struct SelectiveAttention final : SelfAttention {
  using Config = SelectiveConfig;

  std::optional<Temperature> tau_q, tau_k, tau_v;

  SelectiveAttention(const Config& config, const Geometry& g);
  TESSERA_MEMBERS(qkv, out, tau_q, tau_k, tau_v)

 protected:
  Heads shaped(Heads heads, const Tensor& x, const AttentionContext& context) const override;
  AttentionResult attend(const Tensor& q, const Tensor& k, const Tensor& v,
                         const AttentionOptions& options, const AttentionContext& context) override;
  AttentionResult decode(const Tensor& q, const KvCache& cache, const AttentionOptions& options,
                         const AttentionContext& context) override;

 private:
  bool signed_values_;
};

}  // namespace tessera
