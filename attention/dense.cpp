#include "tessera/attention/dense.h"

#include "tessera/attention/engines/dense.h"
#include "tessera/attention/engines/scores.h"
#include "tessera/attention/kv_cache.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/core/create.h"

namespace tessera {
namespace {

TESSERA_REGISTER(Attention, DenseAttentionLayer, "dense", "every token sees every (earlier) token",
                 "Vaswani et al. 2017");

int64_t head_dim_of(const Geometry& g) {
  if (g.head_dim > 0) return g.head_dim;
  check(g.width % g.heads == 0, "attention: width {} is not a multiple of {} heads", g.width,
        g.heads);
  return g.width / g.heads;
}

int64_t kv_heads_of(const DenseAttentionLayer::Config& c, const Geometry& g) {
  const int64_t kv = c.kv_heads.value_or(g.heads);
  check(g.heads % kv == 0, "attention: {} heads are not a multiple of {} kv_heads", g.heads, kv);
  return kv;
}

// (B, N, heads · D) as (B, heads, N, D), a view.
Tensor split_heads(const Tensor& x, int64_t heads, int64_t head_dim) {
  return transpose(reshape(x, {x.size(0), x.size(1), heads, head_dim}), 1, 2);
}

}  // namespace

DenseAttentionLayer::DenseAttentionLayer(const Config& c, const Geometry& g)
    : qkv(Linear::normal(g.width, (g.heads + 2 * kv_heads_of(c, g)) * head_dim_of(g),
                         c.bias.value_or(g.bias), g.init_std)),
      out(Linear::normal(g.heads * head_dim_of(g), g.width, c.bias.value_or(g.bias),
                         g.output_init_std)),
      heads_(g.heads),
      kv_heads_(kv_heads_of(c, g)),
      head_dim_(head_dim_of(g)) {}

Tensor DenseAttentionLayer::operator()(const Tensor& x, const AttentionContext& context) {
  const Tensor packed = qkv(x);
  const int64_t width = heads_ * head_dim_, kv_width = kv_heads_ * head_dim_;
  const TensorList parts = split(packed, {width, kv_width, kv_width}, -1);
  Tensor q = split_heads(parts[0], heads_, head_dim_);
  Tensor k = split_heads(parts[1], kv_heads_, head_dim_);
  Tensor v = split_heads(parts[2], kv_heads_, head_dim_);
  if (context.encoding != nullptr) {
    q = context.encoding->rotate(q, context.positions);
    k = context.encoding->rotate(k, context.positions);
  }
  if (context.cache != nullptr) {
    context.cache->append(k, v);
    k = context.cache->key();
    v = context.cache->value();
  }
  AttentionOptions options{.causal = context.causal};
  if (context.encoding != nullptr) {
    const int64_t past = k.size(2) - x.size(1);
    const Tensor key_positions =
        past == 0 ? context.positions
                  : arange(0, static_cast<double>(k.size(2)), 1, {DType::i64, x.device()});
    const Tensor table = context.encoding->score_bias(context.positions, key_positions);
    if (table.defined()) options.score = bias(table.rank() == 3 ? unsqueeze(table, 0) : table);
  }
  const AttentionResult r = dense_attention(q, k, v, options);
  probe("output", r.output);
  probe("logsumexp", r.logsumexp);
  const Tensor merged =
      reshape(transpose(r.output, 1, 2), {x.size(0), x.size(1), heads_ * head_dim_});
  return out(merged);
}

}  // namespace tessera
