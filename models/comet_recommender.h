// Multi-gate mixture of experts for two tasks (Ma et al. 2018, MMoE), with the gates and sizes of
// Ibrahim et al., KDD 2023, "COMET".
#pragma once

#include <array>

#include "tessera/models/model.h"
#include "tessera/nn/dispatch.h"
#include "tessera/nn/dropout.h"
#include "tessera/nn/gate.h"
#include "tessera/nn/linear.h"

namespace tessera {

// h = [user embedding, item embedding]; f_e(h) = Dropout(relu(h W_e + b_e)) for n shared experts;
// for each task t: y_t = Σ_e g_t,e(h) f_e(h), output = w · relu(V y_t + v) + c.
// An expert computes the rows to which some gate gives it weight, once for both tasks. A gate that
// reads ids reads the user's.
struct CometRecommender final : Recommender {
  struct Config {
    int64_t embedding = 128;
    int64_t experts = 16;
    int64_t k = 2;
    int64_t width = 256;
    double dropout = 0.5;
    Choice<Gate> gate{"comet"};
    TESSERA_FIELDS(f)
    {
      f("embedding", embedding, "width of the embedding of a user and of an item")
          .min(1)
          .max(1 << 16);
      f("experts", experts, "shared by the tasks").min(1).max(1 << 12);
      f("k", k, "experts per pair (trees of the comet gate, selectors of dselect_k)").min(1);
      f("width", width, "width of experts and task heads").min(1).max(1 << 16);
      f("dropout", dropout, "on what experts give").min(0).below(1);
      f("gate", gate, "one for each task");
    }
  };
  struct Head : Module {
    Linear hidden, output;
    explicit Head(int64_t width);
    Tensor operator()(const Tensor& x) const;  // (B, width) → (B)
    TESSERA_MEMBERS(hidden, output)
  };

  Embedding users, items;
  Tensor weight, bias;  // of the experts: (n, 2 embedding, width), (n, width)
  Dropout drop;
  std::vector<std::unique_ptr<Gate>> gates;  // watch, rating
  std::vector<std::unique_ptr<Head>> heads;

  CometRecommender(const Config& config, const DataInfo& input);
  Scores scores(const Tensor& users, const Tensor& items, const ForwardContext& context) override;
  TESSERA_MEMBERS(users, items, weight, bias, drop, gates, heads)

 private:
  // Σ_e g_e f_e of each gate.
  TensorList mixtures(const Tensor& h, const std::vector<GateResult>& results) const;
  int64_t k_;
};

}  // namespace tessera
