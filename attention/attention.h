// The mechanism interface: one file per paper turns its input into queries, keys, values and a
// pattern, and calls an engine. Configs name mechanisms: "attention": {"type": "dense", …}.
#pragma once

#include <optional>

#include "tessera/config/registry.h"
#include "tessera/nn/module.h"
#include "tessera/nn/positions.h"

namespace tessera {

class KvCache;

// The sizes a backbone offers to the mechanism it is built with.
struct Geometry {
  int64_t width = 0;  // of the residual stream
  int64_t heads = 1;
  int64_t head_dim = 0;  // 0: width / heads
  int64_t context = 0;   // the longest sequence
  int64_t layer = 0;     // which layer of how many
  int64_t depth = 1;
  bool bias = true;               // projections carry biases
  double init_std = 0.02;         // of input projections
  double output_init_std = 0.02;  // of the projection that feeds the residual stream
  int64_t grid_height = 0;        // patches, in vision backbones
  int64_t grid_width = 0;
};

// What a mechanism may need besides its input. Tokens of x are the newest ones: with a cache, P
// past tokens come before them.
struct AttentionContext {
  bool causal = false;
  Tensor positions = {};                // i64 (N): positions of the tokens of x
  const Positions* encoding = nullptr;  // rotary turns queries and keys, ALiBi biases scores
  KvCache* cache = nullptr;             // of this layer; null in training
  int64_t step = 0;                     // of training
};

class Attention : public Module {
 public:
  static constexpr const char* kKind = "attention";
  using Build = std::unique_ptr<Attention>(const Geometry&);

  // x (B, N, width) → (B, N, width).
  virtual Tensor operator()(const Tensor& x, const AttentionContext& context) = 0;
};

}  // namespace tessera
