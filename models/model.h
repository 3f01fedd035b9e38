// What a model predicts, as interfaces. Tasks and inference know only these; configs name models:
// "model": {"type": "transformer", …}.
#pragma once

#include <memory>
#include <vector>

#include "tessera/attention/kv_cache.h"
#include "tessera/config/registry.h"
#include "tessera/data/dataset.h"
#include "tessera/nn/context.h"
#include "tessera/nn/module.h"

namespace tessera {

struct ForwardContext {
  LayerContext layer = {};                 // what every layer sees: the step, auxiliary losses
  Tensor lengths = {};                     // i32 (B): only the first tokens of a row are there
  std::vector<KvCache>* caches = nullptr;  // one per layer, for incremental generation
};

class Model : public Module {
 public:
  static constexpr const char* kKind = "model";
  using Build = std::unique_ptr<Model>(const DataInfo&);  // the data sets the sizes
};

class LanguageModel : public Model {
 public:
  // Final hidden states of i64 tokens (B, N): (B, N, width). With caches the tokens continue what
  // the caches hold.
  virtual Tensor hidden(const Tensor& tokens, const ForwardContext& context) = 0;
  // The matrix (V, width) that turns hidden states into logits.
  virtual Tensor head() const = 0;
  virtual int64_t context_length() const = 0;
  // Whether rows of a batch may end early.
  virtual bool takes_lengths() const { return false; }
  // Empty caches to generate with; none when some layer cannot go on from its past.
  virtual std::vector<KvCache> make_caches(const CacheOptions& = {}) const { return {}; }

  Tensor logits(const Tensor& tokens, const ForwardContext& context = {});  // (B, N, V)
};

class ImageClassifier : public Model {
 public:
  virtual Tensor logits(const Tensor& images,
                        const ForwardContext& context = {}) = 0;  // (B, C, H, W) → (B, K)
};

class ImageReconstructor : public Model {
 public:
  // Images (B, C, H, W), of which it may not see the patches that `hidden`, bool (B, N), marks →
  // what it takes every patch for, (B, N, C p p) as to_patches (models/patches.h) orders them.
  virtual Tensor reconstruct(const Tensor& images, const Tensor& hidden,
                             const ForwardContext& context = {}) = 0;
  virtual int64_t patch() const = 0;  // p
};

class Recommender : public Model {
 public:
  // What users (B) i64 make of items (B) i64: the logit of watching, and the rating.
  struct Scores {
    Tensor watch;   // (B)
    Tensor rating;  // (B)
  };
  virtual Scores scores(const Tensor& users, const Tensor& items,
                        const ForwardContext& context = {}) = 0;
};

}  // namespace tessera
