// A mixture of experts in the place of a feed-forward.
#pragma once

#include "tessera/nn/dispatch.h"
#include "tessera/nn/experts.h"
#include "tessera/nn/gate.h"

namespace tessera {

// y_t = Σ_e g_e(x_t) f_e(x_t): a gate weighs n experts, and only those with weight are computed.
//   Dropless: every expert takes all rows that the gate sends it. With a capacity c it takes the
//   first ⌈c k T / n⌉ of T rows; for the rest it adds 0 (Lepikhin et al. 2020, GShard; Fedus et al.
//   2021, Switch Transformer).
//   Balance loss: a n Σ_e f_e P_e, f_e the share of chosen pairs that went to e (no gradient), P_e
//   the mean probability of e. It is a when all are equal (GShard; Switch).
//   z-loss: b mean_t logsumexp(logits_t)² (Zoph et al. 2022, ST-MoE).
// The choice of experts has no gradient; the weights of the chosen ones have.
// Figures: "expert_load" (n): the share of rows per expert; "gate_entropy" in nats; "experts_used"
// per row (weight above 1e-5); "within_k": the share of rows that use at most k; "dropped": the
// share of pairs beyond a capacity.
struct Moe final : FeedForward {
  struct Config : ExpertsConfig {
    int64_t experts = 8;
    int64_t k = 2;
    Choice<Gate> gate{"topk"};
    std::optional<double> capacity;
    double balance_loss = 0.01;
    double z_loss = 0;
    TESSERA_FIELDS(f)
    {
      f("experts", experts, "how many there are").min(1).max(1 << 16);
      f("k", k, "experts per token (trees of the comet gate, selectors of dselect_k)").min(1);
      f("gate", gate, "what chooses and weighs experts");
      expert_fields(f);
      f("capacity", capacity,
        "tokens an expert takes, as a multiple of an even share; "
        "default: all that come")
          .above(0);
      f("balance_loss", balance_loss, "weight of the loss that evens out the load").min(0);
      f("z_loss", z_loss, "weight of the loss that keeps the gate's logits small").min(0);
    }
    void validate(const std::string& path) const;
  };
  std::unique_ptr<Gate> gate;
  Experts experts;
  Dropout drop;

  Moe(const Config& config, const FeedForwardGeometry& g);
  Tensor operator()(const Tensor& x, const LayerContext& context) override;
  TESSERA_MEMBERS(gate, experts, drop)

 private:
  void add_losses(const GateResult& g, const LayerContext& context) const;
  Config c_;
};

// Σ_e w[t, e] y[e, t] of experts that all saw all rows: y (n, T, d), w (T, n) → (T, d).
Tensor combine_all(const Tensor& y, const Tensor& weights);

// The share of the chosen pairs per expert, (n): of weights (T, n) that are not 0.
Tensor expert_load(const Tensor& weights);

// expert_load, gate_entropy, experts_used and within_k of weights (T, n).
void add_gate_figures(const Tensor& weights, int64_t k, const LayerContext& context);

}  // namespace tessera
