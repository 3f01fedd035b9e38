// A vision backbone in stages: fewer and wider tokens from one to the next.
#pragma once

#include "tessera/models/block.h"
#include "tessera/models/model.h"
#include "tessera/models/patches.h"
#include "tessera/nn/linear.h"

namespace tessera {

// Each 2 × 2 patches become one (Liu et al. 2021, "Swin Transformer"): their vectors side by side,
// layer norm, a linear map without bias. (B, rows · columns, D) → (B, rows/2 · columns/2, D').
struct PatchMerging : Module {
  LayerNorm norm;
  Linear reduction;
  PatchGrid grid;  // before

  PatchMerging(int64_t width, int64_t next, const PatchGrid& grid);
  Tensor operator()(const Tensor& x) const;
  TESSERA_MEMBERS(norm, reduction)
};

// Patch embedding, learned positions, then stages of blocks with merging between them; norm, the
// mean over patches, linear head. There is no class token, so that what wants a bare grid works in
// every layer. What blocks are made of is said for the model, a stage, or layers of a stage.
struct Pyramid final : ImageClassifier {
  struct Stage {
    int64_t depth = 1;
    int64_t width = 32;
    int64_t heads = 2;
    std::optional<Choice<Attention>> attention = {};
    std::optional<Choice<FeedForward>> feed_forward = {};
    std::vector<LayerChoice> layers = {};
    TESSERA_FIELDS(f)
    {
      f("depth", depth, "number of blocks").min(1).max(1 << 14);
      f("width", width, "size of the residual stream").min(1).max(1 << 20);
      f("heads", heads, "attention heads").min(1).max(1 << 16);
      f("attention", attention, "the token mixer of its blocks; default: the model's");
      f("feed_forward", feed_forward, "their position-wise part; default: the model's");
      f("layers", layers, "blocks of the stage, from 0, that are made otherwise");
    }
  };
  struct Config {
    int64_t patch = 4;
    std::vector<Stage> stages = {{}, {.width = 64, .heads = 4}};
    Choice<Attention> attention{"dense"};
    Choice<FeedForward> feed_forward{"mlp"};
    std::string norm = "layer";
    double norm_eps = 1e-6;
    bool positions = true;
    double dropout = 0;
    double drop_path = 0;
    TESSERA_FIELDS(f)
    {
      f("patch", patch, "side of a patch of the first stage in pixels").min(1).max(1 << 16);
      f("stages", stages, "from the finest grid to the coarsest; each halves the one before");
      f("attention", attention, "the token mixer of every block");
      f("feed_forward", feed_forward, "the position-wise part of every block");
      f("norm", norm, "normalisation").one_of({"layer", "rms"});
      f("norm_eps", norm_eps, "added to the variance").above(0);
      f("positions", positions, "learned positions of the first stage");
      f("dropout", dropout, "after the embedding and every branch").min(0).below(1);
      f("drop_path", drop_path, "rate of the last block; rises linearly from 0").min(0).below(1);
    }
  };

  PatchEmbedding patch_embedding;
  Tensor positions;  // (1, N, width of the first stage)
  Dropout drop;
  std::vector<std::unique_ptr<Block>> blocks;           // of all stages
  std::vector<std::unique_ptr<PatchMerging>> mergings;  // one fewer than stages
  Norm norm;
  Linear head;

  Pyramid(const Config& config, const DataInfo& input);
  Tensor logits(const Tensor& images, const ForwardContext& context) override;
  TESSERA_MEMBERS(patch_embedding, positions, drop, blocks, mergings, norm, head)

 private:
  void add_stage(const Config& c, size_t stage, const PatchGrid& grid, int64_t depth);

  std::vector<size_t> stage_ends_;  // how many blocks there are up to the end of each
};

}  // namespace tessera
