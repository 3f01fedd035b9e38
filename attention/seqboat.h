// Sparse modular activation: a moving average mixes all tokens, and decides which of them attend.
//
//   m = EMA(x),   y = SiLU(m)                                       x, m, y (B, N, D)
//   [u | hx] = W_u y,   π = softmax(u / τ),   active: π_1 > π_0,    u (B, N, 2)
//   y' = the active tokens of y, packed to the front of each row    y' (B, N, D), n_b of them
//   [ζ | r | v] = SiLU(W y'),   q = ζ ⊙ g_0 + b_0,   k = ζ ⊙ g_1 + b_1
//   o_i = Σ_j A_ij v_j,   |i − j| ≤ w packed places (0 ≤ i − j when causal)
//   h' = W_o (o ⊙ r),   h = π_1 h' unpacked, 0 where inactive;   the result is hx + h
//
// A is a softmax of q·k/√z + R, or relu(q·k/w + R)² without normalisation (w is 2 w in both
// directions); R is a learned bias by packed or by original distance, or rotary positions of the
// backbone turn q and k by original ones. Cost Σ_b n_b (w + 1), reach unbounded. The order of
// packing, the choice and its comparison carry no gradient: it reaches u through π_1 of active
// tokens alone. A cache holds the state of the average and the last w activated keys and values.
//
// Ren et al. 2023, "Sparse Modular Activation for Efficient Sequence Modeling" (SeqBoat), which
// puts SiLU(result + x) around it: models/seqboat.h.
#pragma once

#include "tessera/attention/attention.h"
#include "tessera/attention/engines/engine.h"
#include "tessera/autograd/ops/pack_rows.h"
#include "tessera/nn/dropout.h"
#include "tessera/nn/linear.h"
#include "tessera/nn/moving_average.h"

namespace tessera {

struct SeqBoatConfig {
  std::optional<int64_t> hidden;
  std::optional<int64_t> query_width;
  int64_t ema = 16;
  int64_t truncation = 0;
  int64_t window = 128;
  std::string kernel = "softmax";
  std::string bias = "packed";
  std::optional<int64_t> max_positions;
  double init_temperature = 1;
  std::optional<double> init_std;
  bool always_act = false;
  double hidden_dropout = 0;

  void unit_fields(Fields& f) {
    f("hidden", hidden, "e, width of values; default 2 × width").min(1).max(1 << 24);
    f("query_width", query_width, "z, width of queries and keys; default width / 4, even")
        .min(1)
        .max(1 << 20);
    f("ema", ema, "dimensions of the moving average per channel").min(1).max(1 << 12);
    f("truncation", truncation, "taps of the moving average; 0: the whole length")
        .min(0)
        .max(1 << 28);
    f("window", window, "w: a token attends to so many activated tokens before (and after) it")
        .min(1)
        .max(1 << 24);
    f("kernel", kernel, "what becomes of scores: softmax, or relu2 without normalisation")
        .one_of({"softmax", "relu2"});
    f("bias", bias, "learned bias of scores, by distance among the packed or the original tokens")
        .one_of({"packed", "original", "none"});
    f("max_positions", max_positions, "original distances told apart; default: the context")
        .min(1)
        .max(1 << 24);
    f("init_temperature", init_temperature, "the temperature starts at this times √width").above(0);
    f("init_std", init_std,
      "deviation of the initial projections and gains; default: the model's, and 0.02 for gains")
        .min(0);
    f("always_act", always_act, "every token attends, without a choice");
    f("hidden_dropout", hidden_dropout, "of values").min(0).below(1);
  }
};

struct SeqBoat final : Attention {
  struct Config : SeqBoatConfig {
    double dropout = 0;
    TESSERA_FIELDS(f)
    {
      unit_fields(f);
      f("dropout", dropout, "after the moving average").min(0).below(1);
    }
  };

  DampedEma average;
  Linear choice;           // W_u: [u | hx], hx alone when every token acts
  Linear unit;             // W: [ζ | r | v]
  Tensor gain, shift;      // g, b (2, z)
  Tensor distance_bias;    // R (1, 2 w + 1) by packed, (1, 2 M − 1) by original distance
  Tensor log_temperature;  // (1): τ = exp of it
  Linear out;
  Dropout drop, drop_hidden;

  SeqBoat(const Config& config, const Geometry& g, bool bidirectional = false);
  Tensor operator()(const Tensor& x, const AttentionContext& context) override;
  static void capabilities(Capabilities& c);
  TESSERA_MEMBERS(average, choice, unit, gain, shift, distance_bias, log_temperature, out, drop,
                  drop_hidden)

 private:
  struct Activation {
    Tensor chosen;      // bool (B, N)
    Tensor confidence;  // (B, N); undefined when every token acts
  };
  struct Past;  // activated keys and values before those of x
  Activation activate(const Tensor& u, const Tensor& valid) const;
  Tensor average_of(const Tensor& x, const Tensor& valid, const AttentionContext& context) const;
  Tensor attend(const Tensor& y, const Packing& packing, const AttentionContext& context) const;
  AttentionOptions options_of(const Packing& packing, const Tensor& positions,
                              const Past& past) const;
  void report(const Packing& packing, const Tensor& positions, const Tensor& valid,
              const LayerContext& context) const;

  int64_t query_width_, hidden_, window_;
  bool bidirectional_, softmax_, by_original_;
};

}  // namespace tessera
