// The mechanism interface: one file per paper turns its input into queries, keys, values and a
// pattern, and calls an engine. Configs name mechanisms: "attention": {"type": "dense", …}.
#pragma once

#include <optional>

#include "tessera/attention/engines/score.h"
#include "tessera/config/registry.h"
#include "tessera/nn/context.h"
#include "tessera/nn/module.h"
#include "tessera/nn/positions.h"

namespace tessera {

class KvCache;
struct CacheOptions;

// What a mechanism may be asked for. One that cannot do something says so, with the reason, in its
// static `capabilities` (config/registry.h); a model that needs it refuses the mechanism by name.
namespace capability {
constexpr const char* kCausal = "causal";                // no query sees a later token
constexpr const char* kBidirectional = "bidirectional";  // queries see later tokens too
constexpr const char* kSequence = "sequence";            // works without a grid
constexpr const char* kCache = "cache";                  // generates through a KV cache
constexpr const char* kLengths = "lengths";              // rows of a batch may end early
constexpr const char* kScoreBias = "score_bias";         // positions may bias scores
}  // namespace capability

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
  int64_t grid_height = 0;        // patches, in vision backbones; 0: the tokens are a sequence
  int64_t grid_width = 0;
  int64_t prefix = 0;  // tokens before the grid (class tokens)
};

// What a mechanism may need besides its input. Tokens of x are the newest ones: with a cache, P
// past tokens come before them.
struct AttentionContext {
  bool causal = false;
  Tensor positions = {};                // i64 (N), or (B, N): positions of the tokens of x
  Tensor lengths = {};                  // i32 (B): only the first tokens of a row are there
  const Positions* encoding = nullptr;  // rotary turns queries and keys, ALiBi biases scores
  KvCache* cache = nullptr;             // of this layer; null in training
  LayerContext layer = {};              // the step, auxiliary losses, …
};

class Attention : public Module {
 public:
  static constexpr const char* kKind = "attention";
  using Build = std::unique_ptr<Attention>(const Geometry&);

  // x (B, N, width) → (B, N, width).
  virtual Tensor operator()(const Tensor& x, const AttentionContext& context) = 0;
  // The cache that it generates with, for at most `capacity` tokens.
  virtual KvCache make_cache(int64_t capacity, const CacheOptions& options) const;
};

// What `positions` add to scores, as a functor for engines; the identity for most.
Score score_of(const Positions& positions, Device device);

// Throws `user: attention "x" does not support causal: REASON`, when it says so of itself.
void require_capability(std::string_view user, const ChoiceBase& attention,
                        std::string_view capability);

}  // namespace tessera
