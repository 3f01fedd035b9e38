// A bank of n feed-forward networks of one shape, computed by groups of rows.
#pragma once

#include <string>

#include "tessera/nn/feed_forward.h"

namespace tessera {

struct ExpertsConfig {
  std::string expert = "mlp";
  std::optional<int64_t> hidden;
  double ratio = 4;
  std::string activation = "gelu";

  void expert_fields(Fields& f) {
    f("expert", expert, "mlp: two matrices; glu: one more that gates the inner ones")
        .one_of({"mlp", "glu"});
    f("hidden", hidden, "inner width of an expert; default ratio × width").min(1).max(1 << 24);
    f("ratio", ratio, "inner width as a multiple of the width").above(0).max(1024);
    f("activation", activation, "pointwise function inside (of the gate, in a glu)")
        .one_of(activation_names());
  }
};

// Expert e: y = φ(x U_e + b_e) D_e + c_e (mlp), y = (φ(x G_e + a_e) ⊙ (x U_e + b_e)) D_e + c_e
// (glu).
struct Experts : Module {
  Tensor gate, gate_bias, up, up_bias, down, down_bias;  // (n, in, out) and (n, out)
  Activation phi;

  Experts(const ExpertsConfig& config, const FeedForwardGeometry& g, int64_t experts);
  int64_t count() const { return up.size(0); }
  // Rows (R, width) in the order of their experts; offsets as in grouped_matmul.
  Tensor rows(const Tensor& x, const Tensor& offsets) const;
  // Every expert on every row: (T, width) → (n, T, width).
  Tensor all(const Tensor& x) const;
  // Takes the weights of hidden neurons of a dense network: expert e gets neurons[e], as many as it
  // has of its own. Throws unless both are of the mlp form and one width.
  void take(const Mlp& dense, const std::vector<std::vector<int64_t>>& neurons);
  TESSERA_MEMBERS(gate, gate_bias, up, up_bias, down, down_bias)
};

// Which neurons of a dense network each of n experts takes: in the order of importance, the first
// `shared` go to every expert, of the rest the r-th goes to expert r mod n, and every expert keeps
// its first `hidden`. Throws when there are too few for that. Zuo et al. 2022, "MoEBERT: from BERT
// to Mixture-of-Experts via Importance-Guided Adaptation"; COMET-BERT takes the same.
std::vector<std::vector<int64_t>> deal_neurons(const std::vector<double>& importance,
                                               int64_t experts, int64_t shared, int64_t hidden);

}  // namespace tessera
