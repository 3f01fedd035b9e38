// What a model predicts, as interfaces. Tasks and inference know only these; configs name models:
// "model": {"type": "transformer", …}.
#pragma once

#include <memory>
#include <vector>

#include "tessera/attention/kv_cache.h"
#include "tessera/config/registry.h"
#include "tessera/data/dataset.h"
#include "tessera/nn/module.h"

namespace tessera {

// State of training that a forward pass may depend on.
struct ForwardContext {
  int64_t step = 0;
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
  virtual int64_t cache_layers() const { return 0; }  // 0: no incremental generation

  Tensor logits(const Tensor& tokens, const ForwardContext& context = {});  // (B, N, V)
};

class ImageClassifier : public Model {
 public:
  virtual Tensor logits(const Tensor& images,
                        const ForwardContext& context = {}) = 0;  // (B, C, H, W) → (B, K)
};

}  // namespace tessera
