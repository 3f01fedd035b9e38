// The isotropic image transformer and its DeiT variants.
#pragma once

#include "tessera/models/block.h"
#include "tessera/models/model.h"
#include "tessera/models/patches.h"
#include "tessera/nn/linear.h"

namespace tessera {

// ViT (Dosovitskiy et al. 2021) / DeiT (Touvron et al. 2021): patch embedding, class token, learned
// positions, blocks, norm (after pre-norm blocks), linear head on the class token (or the mean of
// the patches). The distilled variant has a second token with its own head; evaluation averages the
// two. The class token may join later, without a position; layers before it see the bare grid
// (ConViT: d'Ascoli et al. 2021).
struct Vit final : ImageClassifier {
  struct Config : BlocksConfig {
    int64_t patch = 4;
    std::string pool = "class";
    bool distilled = false;
    int64_t class_token_layer = 0;
    bool patch_norm = false;
    double token_std = 0.02;
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
      f("class_token_layer", class_token_layer,
        "the layer before which the class token joins the patches; depth: there is none")
          .min(0);
      f("patch_norm", patch_norm, "layer norms around the projection of patches (CRATE)");
      f("token_std", token_std, "deviation of the initial class token and positions").above(0);
      f("drop_path", drop_path, "rate of the last block; rises linearly from 0").min(0).below(1);
    }
  };

  PatchEmbedding patch_embedding;
  Tensor class_token;         // (1, 1, D); undefined where there is none
  Tensor distillation_token;  // (1, 1, D), distilled only
  Tensor positions;           // (1, tokens of the first layer, D)
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
  static Tensor tokens(int64_t count, const Config& c);  // a parameter (1, count, D)
  Tensor features(const Tensor& images, const ForwardContext& context);
  // x (B, N, D) with the class token (and the distillation token) before it.
  Tensor with_tokens(const Tensor& x) const;
  DataInfo input_;
  bool mean_pool_;
  int64_t class_token_layer_;
};

}  // namespace tessera
