#include "tessera/attention/self_attention.h"

#include <atomic>

#include "tessera/attention/engines/decode.h"
#include "tessera/attention/heads.h"
#include "tessera/attention/kv_cache.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/tape.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/view.h"

namespace tessera {
namespace {

int64_t kv_heads_of(std::string_view name, const ProjectionConfig& c, const Geometry& g) {
  const int64_t kv = c.kv_heads.value_or(g.heads);
  check(g.heads % kv == 0, "{}: {} heads are not a multiple of {} kv_heads", name, g.heads, kv);
  return kv;
}

std::atomic<int> weights_wanted{0};

}  // namespace

SelfAttention::SelfAttention(std::string_view name, const ProjectionConfig& c, const Geometry& g)
    : qkv(Linear::normal(g.width, (g.heads + 2 * kv_heads_of(name, c, g)) * head_dim_of(name, g),
                         c.qkv_bias.value_or(c.bias.value_or(g.bias)), g.init_std)),
      out(Linear::normal(g.heads * head_dim_of(name, g), g.width, c.bias.value_or(g.bias),
                         g.output_init_std)),
      heads_(g.heads),
      kv_heads_(kv_heads_of(name, c, g)),
      head_dim_(head_dim_of(name, g)) {}

SelfAttention::Heads SelfAttention::shaped(Heads heads, const Tensor&,
                                           const AttentionContext&) const {
  return heads;
}

AttentionResult SelfAttention::decode(const Tensor&, const KvCache&, const AttentionOptions&,
                                      const AttentionContext&) {
  return {};
}

// Through the cache. Of a batch of prompts of different lengths, only the tokens that are there are
// kept. A cache that was empty adds nothing to the new keys, which need not be read from it then.
AttentionResult SelfAttention::attend_past(const Tensor& q, const Tensor& k, const Tensor& v,
                                           const AttentionOptions& options,
                                           const AttentionContext& context) {
  KvCache& cache = *context.cache;
  const bool fresh = cache.length() == 0;
  std::vector<int64_t> counts;
  if (context.lengths.defined()) counts = context.lengths.to_vector<int64_t>();
  cache.append(k, v, counts);
  const bool uneven = !fresh && (context.lengths.defined() || !cache.is_even());
  if ((uneven || q.size(2) <= kFewQueries) && !(grad_enabled() && q.requires_grad())) {
    const AttentionResult r = decode(q, cache, options, context);
    if (r.output.defined()) return r;
  }
  if (uneven) return attend_each(q, options, context);
  if (fresh) return attend(q, k, v, options, context);
  return attend(q, kernels::cast(cache.key(), q.dtype()), kernels::cast(cache.value(), q.dtype()),
                options, context);
}

// Sequences of different lengths one after another.
AttentionResult SelfAttention::attend_each(const Tensor& q, const AttentionOptions& options,
                                           const AttentionContext& context) {
  const KvCache& cache = *context.cache;
  check(!cache.view().added.defined(),
        "attention: sequences that are continued by different numbers of tokens want the decode "
        "engine, which gives no gradients and serves not every mechanism");
  const Tensor key = kernels::cast(cache.key(), q.dtype());
  const Tensor value = kernels::cast(cache.value(), q.dtype());
  TensorList outputs, sums;
  for (int64_t b = 0; b < q.size(0); ++b) {
    const int64_t length = cache.lengths()[static_cast<size_t>(b)];
    const auto row = [&](const Tensor& x) { return slice(slice(x, 0, b, b + 1), 2, 0, length); };
    AttentionContext own = context;
    if (own.positions.rank() == 2) own.positions = select(own.positions, 0, b);
    const AttentionResult r = attend(slice(q, 0, b, b + 1), row(key), row(value), options, own);
    outputs.push_back(r.output);
    sums.push_back(r.logsumexp);
  }
  return {concat(outputs, 0), concat(sums, 0)};
}

Tensor SelfAttention::operator()(const Tensor& x, const AttentionContext& context) {
  const int64_t width = heads_ * head_dim_, kv_width = kv_heads_ * head_dim_;
  const TensorList parts = split(qkv(x), {width, kv_width, kv_width}, -1);
  auto [q, k, v] = shaped({split_heads(parts[0], heads_), split_heads(parts[1], kv_heads_),
                           split_heads(parts[2], kv_heads_)},
                          x, context);
  AttentionOptions options{.causal = context.causal, .key_lengths = context.lengths};
  if (context.encoding != nullptr) {
    q = context.encoding->rotate(q, context.positions);
    k = context.encoding->rotate(k, context.positions);
    options.score = score_of(*context.encoding, x.device());
  }
  const AttentionResult r = context.cache != nullptr ? attend_past(q, k, v, options, context)
                                                     : attend(q, k, v, options, context);
  probe("query", q);
  probe("key", k);
  if (WeightsScope::is_open() && context.cache == nullptr) [[unlikely]] {
    probe("weights", attend(q, k, WeightsScope::values(k), options, context).output);
  }
  probe("output", r.output);
  probe("logsumexp", r.logsumexp);
  return out(merge_heads(r.output));
}

Tensor WeightsScope::values(const Tensor& k) {
  const int64_t keys = k.size(2);
  const Tensor one = eye(keys, {k.dtype(), k.device()});
  return kernels::contiguous(views::expand(one, {k.size(0), k.size(1), keys, keys}));
}

bool WeightsScope::is_open() {
  return weights_wanted.load(std::memory_order_relaxed) > 0;
}

WeightsScope::WeightsScope() {
  ++weights_wanted;
}

WeightsScope::~WeightsScope() {
  --weights_wanted;
}

}  // namespace tessera
