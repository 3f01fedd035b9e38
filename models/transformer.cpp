#include "tessera/models/transformer.h"

#include <cmath>

#include "tessera/attention/heads.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/comparison.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/core/create.h"
#include "tessera/core/random.h"

namespace tessera {
namespace {

TESSERA_REGISTER(Model, Transformer, "transformer", "decoder-only language model",
                 "Radford et al. 2019; Touvron et al. 2023");

int64_t head_dim_of(const Transformer::Config& c) {
  const Geometry g{.width = c.width, .heads = c.heads, .head_dim = c.head_dim.value_or(0)};
  return tessera::head_dim_of("transformer", g);
}

BlockOptions block_options(const Transformer::Config& c, const DataInfo& input, int64_t layer) {
  BlockOptions o;
  o.geometry = {.width = c.width,
                .heads = c.heads,
                .head_dim = head_dim_of(c),
                .context = input.context,
                .layer = layer,
                .depth = c.depth,
                .bias = c.bias,
                .init_std = c.init_std,
                .output_init_std = c.init_std / std::sqrt(2.0 * static_cast<double>(c.depth))};
  return o;
}

// Of the newest tokens: (N), or (B, N) after a past, whose lengths then stay on their device.
Tensor positions_after(const KvCache* past, const Tensor& tokens) {
  const auto count = static_cast<double>(tokens.size(1));
  const Tensor range = arange(0, count, 1, {DType::i64, tokens.device()});
  if (past == nullptr || past->seen() == 0) return range;
  return unsqueeze(past->ends().to(DType::i64), 1) + range;
}

}  // namespace

Transformer::Transformer(const Config& c, const DataInfo& input)
    : embedding(input.vocabulary, c.embedding_width.value_or(c.width), c.init_std),
      positions(c.positions.build(PositionGeometry{.width = c.width,
                                                   .context = input.context,
                                                   .heads = c.heads,
                                                   .head_dim = head_dim_of(c)})),
      drop(c.dropout),
      context_(input.context),
      target_dropout_(c.target_dropout),
      checkpoint_(c.checkpoint),
      cached_(every_attention(c, capability::kCache)),
      takes_lengths_(every_attention(c, capability::kLengths)) {
  check(input.vocabulary > 0 && input.context > 0,
        "transformer: wants tokens, but the data has vocabulary {} and context {}",
        input.vocabulary, input.context);
  require_of_blocks("transformer", c, capability::kCausal);
  require_of_blocks("transformer", c, capability::kSequence);
  if (positions->score_bias({}).table.defined()) {
    require_of_blocks("transformer", c, capability::kScoreBias);
  }
  for (int64_t i = 0; i < c.depth; ++i) {
    blocks.push_back(std::make_unique<Block>(c, block_options(c, input, i)));
  }
  if (c.residual == "pre") norm.emplace(c.norm, c.width, c.norm_eps, c.bias);
  const int64_t narrowed = c.embedding_width.value_or(c.width);
  if (narrowed != c.width) {
    widen.emplace(Linear::normal(narrowed, c.width, c.bias, c.init_std));
    narrow.emplace(Linear::normal(c.width, narrowed, c.bias, c.init_std));
  }
  if (!c.tied) lm_head.emplace(Linear::normal(narrowed, input.vocabulary, false, c.init_std));
}

Tensor Transformer::embed(const Tensor& tokens, const Tensor& at) {
  Tensor ids = tokens;
  if (training() && target_dropout_ > 0) {
    const Tensor chance = rand(tokens.shape(), DType::f32, tokens.device());
    ids = masked_fill(tokens, lt(chance, target_dropout_), 0);
  }
  const Tensor x = embedding(ids);
  return drop(positions->embed(widen ? (*widen)(x) : x, at));
}

Tensor Transformer::hidden(const Tensor& tokens, const ForwardContext& context) {
  check(tokens.rank() == 2, "transformer: tokens must be (B, N), got {}", tokens.shape());
  const KvCache* past =
      context.caches != nullptr && !context.caches->empty() ? &context.caches->front() : nullptr;
  const int64_t before = past != nullptr ? past->seen() : 0;
  check(before + tokens.size(1) <= context_,
        "transformer: {} tokens after {} exceed the context of {}", tokens.size(1), before,
        context_);
  AttentionContext attention{.causal = true,
                             .lengths = context.lengths,
                             .encoding = positions.get(),
                             .layer = context.layer};
  attention.layer.tokens = tokens;
  attention.positions = positions_after(past, tokens);
  Residual x{embed(tokens, attention.positions)};
  for (size_t i = 0; i < blocks.size(); ++i) {
    if (context.caches != nullptr) attention.cache = &(*context.caches)[i];
    x = checkpoint_ && training() ? recomputed(*blocks[i], x, attention)
                                  : (*blocks[i])(x, attention);
  }
  const Tensor y = norm ? (*norm)(x).y : x.sum();
  return narrow ? (*narrow)(y) : y;
}

std::vector<KvCache> Transformer::make_caches(const CacheOptions& options) const {
  std::vector<KvCache> caches;
  if (!cached_) return caches;
  for (const auto& block : blocks) {
    caches.push_back(block->attention->make_cache(context_, options));
  }
  return caches;
}

}  // namespace tessera
