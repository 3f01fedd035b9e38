#include "tessera/attention/mssa.h"

#include "tessera/attention/engines/decode.h"
#include "tessera/attention/engines/dense.h"
#include "tessera/attention/kv_cache.h"
#include "tessera/attention/self_attention.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/matmul.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/tape.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/nn/init.h"

namespace tessera {
namespace {

TESSERA_REGISTER(Attention, MssaAttention, "mssa",
                 "subspace attention: query, key and value are one tensor",
                 "Yu et al. 2023, CRATE");

int64_t head_dim_of(const Geometry& g) {
  if (g.head_dim > 0) return g.head_dim;
  check(g.width % g.heads == 0, "mssa: width {} is not a multiple of {} heads", g.width, g.heads);
  return g.width / g.heads;
}

}  // namespace

MssaAttention::MssaAttention(const Config& c, const Geometry& g)
    : in(g.width, g.heads * head_dim_of(g), false), heads_(g.heads), head_dim_(head_dim_of(g)) {
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
  Tensor w = transpose(reshape(in(x), {x.size(0), x.size(1), heads_, head_dim_}), 1, 2);
  AttentionOptions options{.causal = context.causal, .key_lengths = context.lengths};
  if (context.encoding != nullptr) {
    w = context.encoding->rotate(w, context.positions);
    options.score = score_of(*context.encoding, x.device());
  }
  probe("input", x);
  probe("subspaces", w);
  if (WeightsScope::is_open() && context.cache == nullptr) {
    const int64_t n = x.size(1);
    const Tensor one = expand(eye(n, {w.dtype(), w.device()}), {x.size(0), heads_, n, n});
    probe("weights", dense_attention(w, w, one, options).output);
  }
  const Tensor o = attend(w, options, context);
  const Tensor y =
      projected(reshape(transpose(o, 1, 2), {x.size(0), x.size(1), heads_ * head_dim_}));
  probe("projected", y);
  return step_ ? (y - x) * *step_ : y;
}

}  // namespace tessera
