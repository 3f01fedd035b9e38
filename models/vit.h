// The isotropic image transformer and its DeiT variants.
#pragma once

#include "tessera/models/block.h"
#include "tessera/models/model.h"
#include "tessera/nn/linear.h"

namespace tessera {

// Patches of p × p pixels become tokens: a convolution of kernel and stride p, done as unfold and
// one product. A patch vector is ordered (channel, row, column).
struct PatchEmbedding : Module {
  Tensor weight, bias;  // (D, C, p, p), (D)

  PatchEmbedding(int64_t channels, int64_t patch, int64_t width);
  Tensor operator()(const Tensor& images) const;  // (B, C, H, W) → (B, H/p · W/p, D)
  TESSERA_MEMBERS(weight, bias)
};

// ViT (Dosovitskiy et al. 2021) / DeiT (Touvron et al. 2021): patch embedding, class token, learned
// positions, blocks, norm (after pre-norm blocks), linear head on the class token (or the mean of
// the patches). The distilled variant has a second token with its own head; evaluation averages the
// two.
struct Vit final : ImageClassifier {
  struct Config : BlocksConfig {
    int64_t patch = 4;
    std::string pool = "class";
    bool distilled = false;
    double drop_path = 0;

    Config() {
      width = 64;
      norm_eps = 1e-6;
    }

    TESSERA_FIELDS(f)
    {
      f("patch", patch, "side of a patch in pixels; must divide the image").min(1).max(1 << 16);
      block_fields(f);
      f("pool", pool, "what the head sees: the class token or the mean of the patches")
          .one_of({"class", "mean"});
      f("distilled", distilled, "a second token and head for distillation (DeiT)");
      f("drop_path", drop_path, "rate of the last block; rises linearly from 0").min(0).below(1);
    }
  };

  PatchEmbedding patch_embedding;
  Tensor class_token;         // (1, 1, D)
  Tensor distillation_token;  // (1, 1, D), distilled only
  Tensor positions;           // (1, tokens, D)
  Dropout drop;
  std::vector<std::unique_ptr<Block>> blocks;
  std::optional<Norm> norm;  // none where every block ends with one
  Linear head;
  std::optional<Linear> distillation_head;

  Vit(const Config& config, const DataInfo& input);
  Tensor logits(const Tensor& images, const ForwardContext& context) override;
  // Logits of both heads of the distilled variant, for its training.
  std::pair<Tensor, Tensor> both_logits(const Tensor& images, const ForwardContext& context = {});
  TESSERA_MEMBERS(patch_embedding, class_token, distillation_token, positions, drop, blocks, norm,
                  head, distillation_head)

 private:
  Tensor features(const Tensor& images, const ForwardContext& context);
  DataInfo input_;
  bool mean_pool_;
};

}  // namespace tessera
