#include "tessera/attention/masformer.h"

#include <algorithm>

#include "tessera/attention/engines/decode.h"
#include "tessera/attention/kv_cache.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/core/kernels/copy.h"

namespace tessera {
namespace {

constexpr const char* kName = "masformer";

TESSERA_REGISTER(Attention, Masformer, kName, "full attention in a few layers, local in the others",
                 "Zhang et al. 2023, arXiv 2310.12442");

// Past keys (or values) of a cache and the new ones behind them.
Tensor after(const Tensor& past, const Tensor& x) {
  return concat({kernels::cast(past, x.dtype()), x}, 2);
}

}  // namespace

Span Masformer::Config::span(int64_t layer, int64_t depth) const {
  if (!spans.empty()) {
    check(std::ssize(spans) == depth, "masformer: spans lists {} layers, the model has {}",
          spans.size(), depth);
    return span_from_text(kName, spans[static_cast<size_t>(layer)]);
  }
  check(full_layers <= depth, "masformer: full_layers is {}, the model has {} layers", full_layers,
        depth);
  bool full = layer < full_layers;
  if (placement == "top") full = layer >= depth - full_layers;
  if (placement == "interleave") {  // in the middle of each of so many equal parts
    full = false;
    for (int64_t k = 0; k < full_layers; ++k) {
      full = full || layer == (2 * k + 1) * depth / (2 * full_layers);
    }
  }
  return full ? Span{} : span_from_text(kName, local);
}

Masformer::Masformer(const Config& config, const Geometry& g)
    : SelfAttention(kName, config, g),
      span_(config.span(g.layer, g.depth)),
      scale_(config.scale.value_or(0)) {}

KvCache Masformer::make_cache(int64_t capacity, const CacheOptions& options) const {
  const int64_t memory = span_.memory();
  return KvCache(memory < 0 ? capacity : std::min(capacity, memory), options);
}

AttentionOptions Masformer::scaled(const AttentionOptions& options) const {
  AttentionOptions o = options;
  o.scale = scale_;
  return o;
}

AttentionResult Masformer::attend(const Tensor& q, const Tensor& k, const Tensor& v,
                                  const AttentionOptions& options, const AttentionContext&) {
  return span_attention(q, k, v, span_, scaled(options));
}

AttentionResult Masformer::decode(const Tensor& q, const KvCache& cache,
                                  const AttentionOptions& options, const AttentionContext&) {
  return decode_attention(q, cache,
                          {.scale = scale_, .causal = options.causal, .score = options.score});
}

// Of a local span: the cache keeps what the next token may see.
AttentionResult Masformer::attend_past(const Tensor& q, const Tensor& k, const Tensor& v,
                                       const AttentionOptions& options,
                                       const AttentionContext& context) {
  if (span_.kind == Span::Kind::full) return SelfAttention::attend_past(q, k, v, options, context);
  KvCache& cache = *context.cache;
  const int64_t count = q.size(2), stored = cache.length(), past = cache.seen();
  const bool even = !context.lengths.defined() && cache.is_even();
  AttentionResult r;
  if (past == 0) {
    r = attend(q, k, v, options, context);
  } else if (count > 1) {
    check(even, "masformer: sequences of different lengths are continued token by token under {}",
          to_string(span_));
    r = span_attention_from(past - stored, q, after(cache.key(), k), after(cache.value(), v), span_,
                            scaled(options));
  }
  std::vector<int64_t> counts(static_cast<size_t>(q.size(0)), count), ends = cache.seen_of_each();
  if (context.lengths.defined()) counts = context.lengths.to_vector<int64_t>();
  ends.resize(counts.size());
  std::vector<int64_t> visible;  // to the newest token of each sequence
  for (size_t b = 0; b < counts.size(); ++b) {
    const int64_t end = ends[b] + counts[b];
    visible.push_back(end == 0 ? 0 : end - span_.first_key(end - 1));
  }
  cache.append_newest(k, v, visible, counts);
  return r.output.defined() ? r : decode(q, cache, options, context);
}

}  // namespace tessera
