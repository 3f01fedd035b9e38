// SeqBoat (Ren et al. 2023): layers of sparse modular activation, as a language model and as a
// classifier of images read pixel by pixel (or patch by patch).
#pragma once

#include "tessera/attention/seqboat.h"
#include "tessera/models/model.h"
#include "tessera/models/vit.h"
#include "tessera/nn/linear.h"
#include "tessera/nn/norm.h"

namespace tessera {

struct SeqBoatStackConfig : SeqBoatConfig {
  int64_t width = 64;
  int64_t depth = 3;
  std::string norm = "layer";
  std::string residual = "pre";
  double dropout = 0;
  Choice<Positions> positions{"none"};

  void stack_fields(Fields& f) {
    f("width", width, "size of the residual stream").min(1).max(1 << 20);
    f("depth", depth, "number of layers").min(1).max(1 << 14);
    unit_fields(f);
    f("norm", norm, "normalisation: per token, by its length alone, or over batch and time")
        .one_of({"layer", "scale", "batch"});
    f("residual", residual,
      "pre: SiLU(x + f(norm x)), with a norm at the end; "
      "post: norm(SiLU(x + f(x)))")
        .one_of({"pre", "post"});
    f("dropout", dropout, "of the embedding and inside every layer").min(0).below(1);
    f("positions", positions, "added to the embedding, or rotary: by original distance");
  }
};

// layer norm; x / sqrt(mean(x²)) · g with one g for all channels (Nguyen & Salazar 2019); or batch
// norm over batch and time, x (B, N, D).
struct SequenceNorm : Module {
  std::optional<LayerNorm> layer;
  Tensor scale;  // (1)
  std::optional<BatchNorm> batch;

  SequenceNorm(const std::string& kind, int64_t width);
  Tensor operator()(const Tensor& x);
  TESSERA_MEMBERS(layer, scale, batch)
};

// pre: x ← SiLU(x + unit(norm x));  post: x ← norm(SiLU(x + unit(x))). The SiLU comes after the
// residual.
struct SeqBoatLayer : Module {
  SequenceNorm norm;
  SeqBoat unit;
  Dropout drop;

  SeqBoatLayer(const SeqBoatStackConfig& config, const Geometry& g, bool bidirectional);
  Tensor operator()(const Tensor& x, const AttentionContext& context);
  TESSERA_MEMBERS(norm, unit, drop)

 private:
  bool post_;
};

// What both models are made of: positions, layers, a last norm after pre-norm layers.
struct SeqBoatStack : Module {
  std::unique_ptr<Positions> positions;
  Dropout drop;
  std::vector<std::unique_ptr<SeqBoatLayer>> layers;

  SeqBoatStack(const SeqBoatStackConfig& config, int64_t context, bool bidirectional);
  // Embedded tokens (B, N, D), which follow those in the caches.
  Tensor operator()(const Tensor& embedded, const ForwardContext& context);
  TESSERA_MEMBERS(positions, drop, layers)

 private:
  bool bidirectional_;
};

// embedding · √D, layers, layer norm without parameters (after pre-norm layers), tied head.
struct SeqBoatLanguageModel final : LanguageModel {
  struct Config : SeqBoatStackConfig {
    TESSERA_FIELDS(f)
    { stack_fields(f); }
  };

  Embedding embedding;
  SeqBoatStack stack;

  SeqBoatLanguageModel(const Config& config, const DataInfo& input);
  Tensor hidden(const Tensor& tokens, const ForwardContext& context) override;
  Tensor head() const override { return embedding.weight; }
  int64_t context_length() const override { return context_; }
  bool takes_lengths() const override { return true; }
  std::vector<KvCache> make_caches(const CacheOptions& options = {}) const override;
  TESSERA_MEMBERS(embedding, stack)

 private:
  int64_t context_;
  bool pre_, cached_;
};

// Pixels (or patches) in reading order, layers that look both ways, mean over tokens, a small MLP.
struct SeqBoatImage final : ImageClassifier {
  struct Config : SeqBoatStackConfig {
    int64_t patch = 1;
    TESSERA_FIELDS(f)
    {
      f("patch", patch, "side of what becomes a token, in pixels; must divide the image")
          .min(1)
          .max(1 << 16);
      stack_fields(f);
    }
  };

  PatchEmbedding embedding;
  SeqBoatStack stack;
  std::optional<SequenceNorm> norm;
  Linear up, head;

  SeqBoatImage(const Config& config, const DataInfo& input);
  Tensor logits(const Tensor& images, const ForwardContext& context) override;
  TESSERA_MEMBERS(embedding, stack, norm, up, head)

 private:
  DataInfo input_;
};

}  // namespace tessera
