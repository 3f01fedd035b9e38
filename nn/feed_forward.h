// The position-wise part of a block. Configs name it: "feed_forward": {"type": "mlp", …}.
#pragma once

#include <string>

#include "tessera/autograd/registry.h"
#include "tessera/config/registry.h"
#include "tessera/nn/context.h"
#include "tessera/nn/dropout.h"
#include "tessera/nn/linear.h"

namespace tessera {

struct FeedForwardGeometry {
  int64_t width = 0;
  bool bias = true;
  double dropout = 0;
  double init_std = 0.02;
  double output_init_std = 0.02;  // of the matrix that feeds the residual stream
  int64_t layer = 0;              // which layer of how many
  int64_t depth = 1;
};

class FeedForward : public Module {
 public:
  static constexpr const char* kKind = "feed_forward";
  using Build = std::unique_ptr<FeedForward>(const FeedForwardGeometry&);
  virtual Tensor operator()(const Tensor& x, const LayerContext& context) = 0;  // (…, width), same
  // Whether a block adds the result to its input; otherwise the result takes its place.
  virtual bool residual() const { return true; }
};

// y = W₂ φ(W₁ x + b₁) + b₂
struct Mlp final : FeedForward {
  struct Config {
    std::optional<int64_t> hidden;
    double ratio = 4;
    std::string activation = "gelu";
    TESSERA_FIELDS(f)
    {
      f("hidden", hidden, "inner width; default ratio × width").min(1).max(1 << 24);
      f("ratio", ratio, "inner width as a multiple of the width").above(0).max(1024);
      f("activation", activation, "pointwise function between the two matrices")
          .one_of(activation_names());
    }
  };
  Linear up, down;
  Dropout drop;
  Activation phi;

  Mlp(const Config& config, const FeedForwardGeometry& g);
  Tensor operator()(const Tensor& x, const LayerContext& context) override;
  TESSERA_MEMBERS(up, down, drop)
};

// y = W_down (φ(W_gate x) ⊙ W_up x) (Shazeer 2020, "GLU Variants Improve Transformer").
struct Glu final : FeedForward {
  struct Config {
    std::optional<int64_t> hidden;
    double ratio = 8.0 / 3;
    std::string activation = "silu";
    TESSERA_FIELDS(f)
    {
      f("hidden", hidden, "inner width; default ratio × width, rounded up to a multiple of 8")
          .min(1)
          .max(1 << 24);
      f("ratio", ratio, "inner width as a multiple of the width").above(0).max(1024);
      f("activation", activation, "pointwise function of the gate: silu gives SwiGLU, gelu GEGLU")
          .one_of(activation_names());
    }
  };
  Linear gate, up, down;
  Dropout drop;
  Activation phi;

  Glu(const Config& config, const FeedForwardGeometry& g);
  Tensor operator()(const Tensor& x, const LayerContext& context) override;
  TESSERA_MEMBERS(gate, up, down, drop)

 private:
  bool fused_ = false;  // SwiGLU runs as one pointwise function of two inputs
};

}  // namespace tessera
