#include "tessera/attention/mssa.h"

#include "tessera/attention/engines/decode.h"
#include "tessera/attention/engines/dense.h"
#include "tessera/attention/heads.h"
#include "tessera/attention/kv_cache.h"
#include "tessera/attention/self_attention.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/matmul.h"
#include "tessera/autograd/tape.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/nn/init.h"

namespace tessera {
namespace {

TESSERA_REGISTER(Attention, MssaAttention, "mssa",
                 "subspace attention: query, key and value are one tensor",
                 "Yu et al. 2023, CRATE");

}  // namespace

MssaAttention::MssaAttention(const Config& c, const Geometry& g)
    : in(g.width, g.heads * head_dim_of("mssa", g), false),
      heads_(g.heads),
      head_dim_(head_dim_of("mssa", g)) {
  const bool bias = c.bias.value_or(g.bias);
  if (!c.tie_out) {
    out.emplace(g.heads * head_dim_, g.width, bias);
  } else if (bias) {
    out_bias = parameter(init::constant({g.width}, 0));
  }
  if (c.exact_step) {
    check(g.context > 0, "mssa: exact_step wants to know the number of tokens");
    step_ = c.kappa * static_cast<double>(head_dim_) /
            (static_cast<double>(g.context) * c.epsilon * c.epsilon);
  }
}

KvCache MssaAttention::make_cache(int64_t capacity, const CacheOptions& options) const {
  CacheOptions one = options;
  one.shared = true;
  return KvCache(capacity, one);
}

// Through the cache as SelfAttention does, with one tensor.
Tensor MssaAttention::attend(const Tensor& w, const AttentionOptions& options,
                             const AttentionContext& context) const {
  if (context.cache == nullptr) return dense_attention(w, w, w, options).output;
  KvCache& cache = *context.cache;
  const bool fresh = cache.length() == 0;
  std::vector<int64_t> counts;
  if (context.lengths.defined()) counts = context.lengths.to_vector<int64_t>();
  cache.append(w, w, counts);
  const bool uneven = !fresh && (context.lengths.defined() || !cache.is_even());
  if (uneven || (w.size(2) <= kFewQueries && !(grad_enabled() && w.requires_grad()))) {
    return decode_attention(w, cache, {.causal = options.causal, .score = options.score}).output;
  }
  const Tensor all = fresh ? w : kernels::cast(cache.key(), w.dtype());
  return dense_attention(w, all, all, options).output;
}

Tensor MssaAttention::projected(const Tensor& heads) const {
  if (out) return (*out)(heads);
  const Tensor y = matmul(heads, in.weight);
  return out_bias.defined() ? y + out_bias : y;
}

Tensor MssaAttention::operator()(const Tensor& x, const AttentionContext& context) {
  Tensor w = split_heads(in(x), heads_);
  AttentionOptions options{.causal = context.causal, .key_lengths = context.lengths};
  if (context.encoding != nullptr) {
    w = context.encoding->rotate(w, context.positions);
    options.score = score_of(*context.encoding, x.device());
  }
  probe("input", x);
  probe("subspaces", w);
  if (WeightsScope::is_open() && context.cache == nullptr) {
    probe("weights", dense_attention(w, w, WeightsScope::values(w), options).output);
  }
  const Tensor y = projected(merge_heads(attend(w, options, context)));
  probe("projected", y);
  return step_ ? (y - x) * *step_ : y;
}

}  // namespace tessera
