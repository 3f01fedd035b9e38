#include "tessera/attention/selective.h"

#include <cmath>

#include "tessera/attention/engines/decode.h"
#include "tessera/attention/engines/dense.h"
#include "tessera/attention/heads.h"
#include "tessera/autograd/ops/activation.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/einsum.h"
#include "tessera/autograd/ops/elementwise.h"
#include "tessera/autograd/ops/reduce.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/tape.h"
#include "tessera/core/create.h"
#include "tessera/nn/init.h"

namespace tessera {
namespace {

TESSERA_REGISTER(Attention, SelectiveAttention, "selective",
                 "queries and values have temperatures of their token and position",
                 "Zhang et al. 2024, arXiv 2411.12892");

constexpr double kLimit = 3;  // beyond it exp(−exp α) has no gradient

bool reads_tokens(const std::string& depends) {
  return depends == "token" || depends == "both";
}

double first_coefficient(const SelectiveConfig& c) {
  if (c.init_coefficient) return *c.init_coefficient;
  if (c.coefficient == "gumbel") return 2;
  return c.coefficient == "linear" ? 1e-5 : 0;
}

DType exact(DType dtype) {
  return dtype == DType::f64 ? DType::f64 : DType::f32;
}

// ln of how many keys each of `tokens` queries sees: (N) or (B, N) when causal, else (B, 1) or (1).
Tensor log_keys(const AttentionContext& c, int64_t tokens, const Tensor& like) {
  const DType dtype = exact(like.dtype());
  if (c.causal) {
    check(c.positions.defined(), "selective: causal attention wants the positions of its tokens");
    return log(c.positions.to(dtype) + 1);
  }
  if (c.lengths.defined()) return unsqueeze(log(c.lengths.to(dtype)), -1);
  return full({1}, std::log(static_cast<double>(tokens)), {dtype, like.device()});
}

// Σ_j p_j² = exp(L(2 s) − 2 L(s)) for probabilities p of scores s with logsumexp L.
Tensor spikiness(const Tensor& q, const Tensor& k, const Tensor& v, AttentionOptions options,
                 const Tensor& logsumexp, const Tensor& log_count) {
  const NoGrad off;
  options.scale = 2 * engine::scale_of(options, q);
  const Tensor doubled = dense_attention(q, k, v, options).logsumexp;
  return mean(exp(logsumexp * 2 - doubled - unsqueeze(log_count, -2).to(doubled.dtype())));
}

}  // namespace

Temperature::Temperature(const SelectiveConfig& c, const std::string& depends, int64_t heads,
                         const Geometry& g)
    : reader_(c.reader), coefficient_(c.coefficient) {
  if (reads_tokens(depends)) {
    int64_t inputs = g.width;
    if (reader_ == "mlp") inputs = c.hidden, first.emplace(g.width, c.hidden, false);
    if (reader_ == "shared") inputs = head_dim_of("selective", g);
    weight = parameter(init::constant({heads, inputs}, 0));
  }
  if (depends != "token") alpha = parameter(init::constant({heads}, first_coefficient(c)));
}

Tensor Temperature::read(const Tensor& x, const Tensor& projected) const {
  if (reader_ == "shared") return einsum("b h n d, h d -> b h n", relu(projected), weight);
  return einsum("b n d, h d -> b h n", first ? gelu((*first)(x)) : x, weight);
}

Tensor Temperature::of_position(const Tensor& log_position) const {
  const Tensor a = alpha.to(log_position.dtype());
  Tensor c = a;
  if (coefficient_ == "sigmoid") c = sigmoid(a);
  if (coefficient_ == "gumbel") c = exp(neg(exp(clamp(a, -kLimit, kLimit))));
  return reshape(c, {-1, 1}) * unsqueeze(log_position, -2);
}

Tensor Temperature::operator()(const Tensor& x, const Tensor& projected,
                               const Tensor& log_position) const {
  Tensor tau;
  if (weight.defined()) tau = tanh(read(x, projected).to(log_position.dtype()));
  if (alpha.defined()) {
    const Tensor place = of_position(log_position);
    tau = tau.defined() ? tau + place : place;
  }
  tau = unsqueeze(tau + 1, -1);
  probe("temperature", tau);
  return tau;
}

SelectiveAttention::SelectiveAttention(const Config& c, const Geometry& g)
    : SelfAttention("selective", c, g), signed_values_(c.signed_values) {
  check(!c.signed_values || c.value == "token",
        "selective: signed_values wants \"value\": \"token\", got \"{}\"", c.value);
  const int64_t kv_heads = c.kv_heads.value_or(g.heads);
  if (c.query != "off") tau_q.emplace(c, c.query, g.heads, g);
  if (c.key != "off") tau_k.emplace(c, c.key, kv_heads, g);
  if (c.value != "off") tau_v.emplace(c, c.value, kv_heads, g);
}

SelfAttention::Heads SelectiveAttention::shaped(Heads heads, const Tensor& x,
                                                const AttentionContext& context) const {
  const Tensor log_position = log_keys(context, x.size(1), x);
  auto& [q, k, v] = heads;
  if (tau_q) q = q * (*tau_q)(x, q, log_position).to(q.dtype());
  if (tau_k) k = k * (*tau_k)(x, k, log_position).to(k.dtype());
  if (tau_v) {
    const Tensor tau = (*tau_v)(x, v, log_position);
    v = v * (signed_values_ ? tau - 1 : tau).to(v.dtype());
  }
  return heads;
}

AttentionResult SelectiveAttention::attend(const Tensor& q, const Tensor& k, const Tensor& v,
                                           const AttentionOptions& options,
                                           const AttentionContext& context) {
  const AttentionResult r = dense_attention(q, k, v, options);
  const bool watched = context.layer.watched() && !training() && context.cache == nullptr;
  if (watched && options.score.is_identity() && !options.key_lengths.defined()) {
    const Tensor counts = log_keys(context, q.size(2), q);
    context.layer.add_figure("spikiness", spikiness(q, k, v, options, r.logsumexp, counts));
  }
  return r;
}

AttentionResult SelectiveAttention::decode(const Tensor& q, const KvCache& cache,
                                           const AttentionOptions& options,
                                           const AttentionContext&) {
  return decode_attention(q, cache, {.causal = options.causal, .score = options.score});
}

}  // namespace tessera
