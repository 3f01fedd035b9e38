#include "tessera/models/seqboat.h"

#include <cmath>

#include "tessera/autograd/ops/activation.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/reduce.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/core/create.h"

namespace tessera {
namespace {

TESSERA_REGISTER(Model, SeqBoatLanguageModel, "seqboat",
                 "language model of sparsely activated attention on moving averages",
                 "Ren et al. 2023");
TESSERA_REGISTER(Model, SeqBoatImage, "seqboat_image",
                 "classifier of images as long sequences of pixels", "Ren et al. 2023");

constexpr double kStd = 0.02;

SeqBoat::Config unit_config(const SeqBoatStackConfig& c) {
  SeqBoat::Config unit;
  static_cast<SeqBoatConfig&>(unit) = c;
  unit.dropout = c.dropout;
  return unit;
}

int64_t query_width(const SeqBoatStackConfig& c) {
  return c.query_width.value_or(c.width / 4 / 2 * 2);
}

int64_t tokens_of(const SeqBoatImage::Config& c, const DataInfo& in) {
  check(in.classes > 0 && in.height > 0 && in.width > 0 && in.height % c.patch == 0 &&
            in.width % c.patch == 0,
        "seqboat_image: wants images with classes whose sides are multiples of patch {}, but the "
        "data has {} x {} pixels and {} classes",
        c.patch, in.height, in.width, in.classes);
  return in.height / c.patch * (in.width / c.patch);
}

const KvCache* past_of(const ForwardContext& context) {
  return context.caches != nullptr && !context.caches->empty() ? &context.caches->front() : nullptr;
}

}  // namespace

SequenceNorm::SequenceNorm(const std::string& kind, int64_t width) {
  if (kind == "layer") layer.emplace(width);
  if (kind == "scale") scale = parameter(ones({1}));
  if (kind == "batch") batch.emplace(width);
}

Tensor SequenceNorm::operator()(const Tensor& x) {
  if (layer) return (*layer)(x);
  if (batch) return transpose((*batch)(transpose(x, 1, 2)), 1, 2);
  return rms_norm(x) * scale.to(x.dtype());
}

SeqBoatLayer::SeqBoatLayer(const SeqBoatStackConfig& c, const Geometry& g, bool bidirectional)
    : norm(c.norm, c.width),
      unit(unit_config(c), g, bidirectional),
      drop(bidirectional ? 0 : c.dropout),
      post_(c.residual == "post") {}

Tensor SeqBoatLayer::operator()(const Tensor& x, const AttentionContext& context) {
  const Tensor y = silu(x + drop(unit(post_ ? x : norm(x), context)));
  return post_ ? norm(y) : y;
}

SeqBoatStack::SeqBoatStack(const SeqBoatStackConfig& c, int64_t context, bool bidirectional)
    : positions(c.positions.build(PositionGeometry{
          .width = c.width, .context = context, .heads = 1, .head_dim = query_width(c)})),
      drop(c.dropout),
      bidirectional_(bidirectional) {
  check(!positions->score_bias({}).table.defined(),
        "seqboat: positions \"{}\" bias scores, which have a bias of their own; choose another",
        c.positions.type());
  for (int64_t i = 0; i < c.depth; ++i) {
    const Geometry g{.width = c.width, .context = context, .layer = i, .depth = c.depth};
    layers.push_back(std::make_unique<SeqBoatLayer>(c, g, bidirectional));
  }
}

Tensor SeqBoatStack::operator()(const Tensor& embedded, const ForwardContext& context) {
  AttentionContext attention{.causal = !bidirectional_,
                             .lengths = context.lengths,
                             .encoding = positions.get(),
                             .layer = context.layer};
  attention.positions =
      arange(0, static_cast<double>(embedded.size(1)), 1, {DType::i64, embedded.device()});
  if (const KvCache* past = past_of(context); past != nullptr && past->length() > 0) {
    attention.positions = unsqueeze(past->view().lengths.to(DType::i64), 1) + attention.positions;
  }
  Tensor x = drop(positions->embed(embedded, attention.positions));
  for (size_t i = 0; i < layers.size(); ++i) {
    if (context.caches != nullptr) attention.cache = &(*context.caches)[i];
    x = (*layers[i])(x, attention);
  }
  return x;
}

SeqBoatLanguageModel::SeqBoatLanguageModel(const Config& c, const DataInfo& input)
    : embedding(input.vocabulary, c.width, 1 / std::sqrt(static_cast<double>(c.width))),
      stack(c, input.context, false),
      context_(input.context),
      pre_(c.residual == "pre"),
      cached_(c.truncation == 0) {
  check(input.vocabulary > 0 && input.context > 0,
        "seqboat: wants tokens, but the data has vocabulary {} and context {}", input.vocabulary,
        input.context);
  check(c.norm != "batch",
        "seqboat: batch norm sees later tokens; a language model wants \"layer\" or \"scale\"");
}

Tensor SeqBoatLanguageModel::hidden(const Tensor& tokens, const ForwardContext& context) {
  check(tokens.rank() == 2, "seqboat: tokens must be (B, N), got {}", tokens.shape());
  const int64_t past = past_of(context) != nullptr ? past_of(context)->length() : 0;
  check(past + tokens.size(1) <= context_, "seqboat: {} tokens after {} exceed the context of {}",
        tokens.size(1), past, context_);
  ForwardContext seen = context;
  seen.layer.tokens = tokens;
  const double scale = std::sqrt(static_cast<double>(embedding.weight.size(1)));
  const Tensor x = stack(embedding(tokens) * scale, seen);
  return pre_ ? layer_norm(x) : x;
}

std::vector<KvCache> SeqBoatLanguageModel::make_caches(const CacheOptions& options) const {
  std::vector<KvCache> caches;
  if (!cached_) return caches;
  for (const auto& layer : stack.layers) {
    caches.push_back(layer->unit.make_cache(context_, options));
  }
  return caches;
}

SeqBoatImage::SeqBoatImage(const Config& c, const DataInfo& in)
    : embedding(in.channels, c.patch, c.width),
      stack(c, tokens_of(c, in), true),
      up(Linear::truncated_normal(c.width, 2 * c.width, true, kStd)),
      head(Linear::truncated_normal(2 * c.width, in.classes, true, kStd)),
      input_(in) {
  if (c.residual == "pre") norm.emplace(c.norm, c.width);
}

Tensor SeqBoatImage::logits(const Tensor& images, const ForwardContext& context) {
  check(images.rank() == 4 && images.size(1) == input_.channels &&
            images.size(2) == input_.height && images.size(3) == input_.width,
        "seqboat_image: images {} do not fit the model's (B, {}, {}, {})", images.shape(),
        input_.channels, input_.height, input_.width);
  Tensor x = stack(embedding(images), context);
  if (norm) x = (*norm)(x);
  return head(gelu(up(mean(x, {1}))));
}

}  // namespace tessera
