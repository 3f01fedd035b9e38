// CRATE-MAE: a masked autoencoder of compressing and sparsifying layers and their inverses.
#pragma once

#include "tessera/attention/mssa.h"
#include "tessera/models/block.h"
#include "tessera/models/model.h"
#include "tessera/models/patches.h"

namespace tessera {

// The inverse of an encoder layer of mssa and ista (Pai et al. 2024, "Masked Completion via
// Structured Diffusion with White-Box Transformers"), with parameters of its own:
//   y ← D̃ LN₁(y);  y ← y − MSSA(LN₂(y))
struct CrateDecoderLayer : Module {
  LayerNorm norm1;
  Linear dictionary;  // D̃ (width, width), no bias
  LayerNorm norm2;
  MssaAttention attention;

  CrateDecoderLayer(double norm_eps, const Geometry& g);
  Tensor operator()(const Tensor& y, const AttentionContext& context);
  TESSERA_MEMBERS(norm1, dictionary, norm2, attention)
};

// Hidden patches are replaced by a token before the encoder, which sees them all, after fixed 2-D
// sine positions (none for the class token). As many decoder layers follow; then norm and a linear
// map to pixels, the class token dropped.
struct CrateMae final : ImageReconstructor {
  struct Config : BlocksConfig {
    int64_t patch = 4;

    Config();
    TESSERA_FIELDS(f)
    {
      f("patch", patch, "side of a patch in pixels; must divide the image").min(1).max(1 << 16);
      block_fields(f);
    }
  };

  PatchEmbedding patch_embedding;
  Tensor class_token, mask_token;  // (1, 1, D)
  Dropout drop;
  std::vector<std::unique_ptr<Block>> blocks;
  LayerNorm norm;
  std::vector<std::unique_ptr<CrateDecoderLayer>> decoder;
  LayerNorm decoder_norm;
  Linear head;

  CrateMae(const Config& config, const DataInfo& input);
  Tensor reconstruct(const Tensor& images, const Tensor& hidden,
                     const ForwardContext& context) override;
  int64_t patch() const override { return patch_; }
  TESSERA_MEMBERS(patch_embedding, class_token, mask_token, drop, blocks, norm, decoder,
                  decoder_norm, head)

 private:
  int64_t patch_;
  Constant positions_;  // (1, 1 + N, D)
};

// Fixed positions of a grid (rows · columns, width), width a multiple of 4: sines and cosines of
// the column in the first half, of the row in the second (He et al. 2022, MAE).
Tensor grid_sines(int64_t rows, int64_t columns, int64_t width);

}  // namespace tessera
