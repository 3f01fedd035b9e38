#include "tessera/attention/routing.h"

#include <bit>
#include <cmath>

#include "tessera/attention/engines/dense.h"
#include "tessera/attention/engines/gather_attention.h"
#include "tessera/attention/engines/scores.h"
#include "tessera/attention/heads.h"
#include "tessera/attention/kv_cache.h"
#include "tessera/attention/span.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/comparison.h"
#include "tessera/autograd/ops/einsum.h"
#include "tessera/autograd/ops/elementwise.h"
#include "tessera/autograd/ops/embedding.h"
#include "tessera/autograd/ops/indexing.h"
#include "tessera/autograd/ops/matmul.h"
#include "tessera/autograd/ops/norm.h"
#include "tessera/autograd/ops/reduce.h"
#include "tessera/autograd/ops/softmax.h"
#include "tessera/autograd/ops/sort.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/tape.h"
#include "tessera/core/create.h"
#include "tessera/core/random.h"
#include "tessera/nn/init.h"

namespace tessera {
namespace {

TESSERA_REGISTER(Attention, RoutingAttention, "routing", "local heads, and heads inside clusters",
                 "Roy et al. 2021, arXiv 2003.05997");
TESSERA_REGISTER(Attention, StrictRouting, "strict_routing",
                 "routing in which no later token decides what meets",
                 "after Roy et al. 2021, arXiv 2003.05997");

constexpr double kNormEpsilon = 1e-6;
constexpr double kSelfScore = -5e4;

const char* const kNoBias =
    "tokens of a cluster come from anywhere; use rotary positions or \"relative\"";

Tensor count_up(int64_t first, int64_t last, Device device) {
  return arange(static_cast<double>(first), static_cast<double>(last), 1, {DType::i64, device});
}

// Rows ids (B, H, K) of x (B, H, N, d): (B, H, K, d).
Tensor rows(const Tensor& x, const Tensor& ids) {
  return gather(x, 2, expand(unsqueeze(ids, -1), {-1, -1, -1, x.size(3)}));
}

// Tokens beyond the lengths: bool (B, 1, N), undefined for none.
Tensor hidden_tokens(const Tensor& lengths, int64_t tokens) {
  if (!lengths.defined()) return {};
  const Tensor at = count_up(0, tokens, lengths.device());
  return unsqueeze(ge(at, unsqueeze(lengths.to(DType::i64), 1)), 1);
}

// Buckets (B, H, N) by the signs of ⟨x, p⟩, as membership (B, H, C, N).
Tensor hashed(const Tensor& x, const Tensor& directions) {
  const Tensor side = matmul(x.to(directions.dtype()), unsqueeze(transpose(directions, 1, 2), 0));
  Tensor bucket;
  for (int64_t bit = 0; bit < side.size(3); ++bit) {
    const Tensor one =
        gt(select(side, 3, bit), 0).to(DType::i64) * static_cast<double>(int64_t{1} << bit);
    bucket = bucket.defined() ? bucket + one : one;
  }
  return transpose(one_hot(bucket, int64_t{1} << side.size(3)), 2, 3);
}

// softmax(scale · (q kᵀ + q RKᵀ) + hiding) (v + RV) for queries (…, W, d), keys and values (…, K,
// d) and offsets j − i (W, K).
struct RelativeScores {
  Tensor offsets = {};
  Tensor hidden = {};  // (…, W, K)
  Tensor self = {};    // (…, W, K), or undefined: gets −5e4
  double scale = 1;
};

Tensor relative_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                          const RelativeVectors& vectors, const RelativeScores& s) {
  const auto reach = static_cast<double>((vectors.key.size(0) - 1) / 2);
  const Tensor place = clamp(s.offsets, -reach, reach) + reach;
  const auto vectors_at = [&](const Tensor& table) {
    return embedding(table.to(q.dtype()), place);  // (W, K, d)
  };
  const Tensor q3 = flatten(q, 0, -3);
  Tensor scores = matmul(q, transpose(k, -1, -2));
  const Tensor near = einsum("x i d, i j d -> x i j", q3, vectors_at(vectors.key));
  scores = (scores + reshape(near, scores.shape())) * s.scale;
  if (s.self.defined()) scores = masked_fill(scores, s.self, kSelfScore);
  const Tensor a = softmax(masked_fill(scores, s.hidden, -INFINITY), -1);
  const Tensor o = matmul(a, v);
  const Tensor far = einsum("x i j, i j d -> x i d", flatten(a, 0, -3), vectors_at(vectors.value));
  return o + reshape(far, o.shape());
}

}  // namespace

RelativeVectors::RelativeVectors(int64_t reach, int64_t head_dim, double init_std)
    : key(parameter(init::normal({2 * reach + 1, head_dim}, init_std))),
      value(parameter(init::normal({2 * reach + 1, head_dim}, init_std))) {}

void RoutingAttention::capabilities(Capabilities& c) {
  c.unsupported(capability::kCache,
                "who shares a cluster depends on the whole sequence; strict_routing generates from "
                "a cache");
  c.unsupported(capability::kScoreBias, kNoBias);
}

namespace {

int64_t routing_heads_of(std::string_view name, const RoutingConfig& c, const Geometry& g) {
  const int64_t wanted = c.routing_heads.value_or((g.heads + 1) / 2);
  check(wanted <= g.heads, "{}: {} routing_heads of {} heads", name, wanted, g.heads);
  return g.layer < c.skip_first ? 0 : wanted;
}

int64_t projected_heads(std::string_view name, const RoutingConfig& c, const Geometry& g) {
  return 3 * g.heads - (c.share_qk ? routing_heads_of(name, c, g) : 0);
}

}  // namespace

RoutingAttention::RoutingAttention(std::string_view name, const Config& c, const Geometry& g)
    : qkv(Linear::normal(g.width, projected_heads(name, c, g) * head_dim_of(name, g), c.bias,
                         g.init_std)),
      out(Linear::normal(g.heads * head_dim_of(name, g), g.width, c.bias, g.output_init_std)),
      c_(c),
      name_(name),
      heads_(g.heads),
      head_dim_(head_dim_of(name, g)),
      routing_(routing_heads_of(name, c, g)) {
  check(!c.mask_self || c.share_qk,
        "{}: mask_self wants share_qk, where a token is nearest to itself", name);
  if (c.per_head_post_dense) post.emplace(Linear::normal(head_dim_, head_dim_, false, g.init_std));
  if (c.relative > 0 && routing_ < heads_) {
    local_relative.emplace(c.relative, head_dim_, g.init_std);
  }
  if (c.relative > 0 && routing_ > 0) routing_relative.emplace(c.relative, head_dim_, g.init_std);
  if (routing_ == 0) return;
  if (c.selection == "clusters" || c.selection == "strided") {
    centroids.emplace(c, routing_, head_dim_);
  }
  if (c.selection == "hash") {
    const auto bits = static_cast<int64_t>(std::bit_width(static_cast<uint64_t>(c.clusters)) - 1);
    check(int64_t{1} << bits == c.clusters && bits >= 1 && bits <= head_dim_,
          "{}: a hash wants clusters to be a power of two from 2 to 2^{}, got {}", name, head_dim_,
          c.clusters);
    TensorList each;
    for (int64_t h = 0; h < routing_; ++h) each.push_back(init::orthogonal(bits, head_dim_));
    directions = stack(each, 0);
  }
}

void RoutingAttention::members(Members& m) {
  m.list("qkv, out, post, local_relative, routing_relative, centroids", qkv, out, post,
         local_relative, routing_relative, centroids);
  m.buffer("directions", directions);
}

Tensor RoutingAttention::operator()(const Tensor& x, const AttentionContext& context) {
  const int64_t d = head_dim_, own_keys = c_.share_qk ? heads_ - routing_ : heads_;
  const TensorList parts = split(qkv(x), {heads_ * d, own_keys * d, heads_ * d}, -1);
  Tensor q = split_heads(parts[0], heads_), k, v = split_heads(parts[2], heads_);
  if (own_keys > 0) k = split_heads(parts[1], own_keys);
  if (context.encoding != nullptr) {
    check(!context.encoding->score_bias(x.device()).table.defined(), "{}: {}", name_, kNoBias);
    q = context.encoding->rotate(q, context.positions);
    if (k.defined()) k = context.encoding->rotate(k, context.positions);
  }
  Heads routing, local;
  if (routing_ > 0) {
    routing.q = layer_norm(slice(q, 1, 0, routing_), {}, {}, kNormEpsilon);
    routing.k =
        c_.share_qk ? routing.q : layer_norm(slice(k, 1, 0, routing_), {}, {}, kNormEpsilon);
    routing.v = slice(v, 1, 0, routing_);
  }
  if (routing_ < heads_) {
    local = {slice(q, 1, routing_), slice(k, 1, c_.share_qk ? 0 : routing_), slice(v, 1, routing_)};
  }
  Tensor y = mixed(routing, local, context);
  if (post) y = (*post)(y);
  return out(merge_heads(y));
}

Tensor RoutingAttention::mixed(const Heads& routing, const Heads& local_heads,
                               const AttentionContext& context) {
  check(context.cache == nullptr,
        "{}: who shares a cluster depends on the whole sequence; use strict_routing to generate "
        "from a cache",
        name_);
  TensorList y;
  if (routing.q.defined()) y.push_back(route(routing, context));
  if (local_heads.q.defined()) y.push_back(local(local_heads, context));
  return y.size() == 1 ? y[0] : concat(y, 1);
}

Tensor RoutingAttention::local(const Heads& h, const AttentionContext& context) const {
  if (local_relative) return relative_local(h, context);
  return span_attention(h.q, h.k, h.v, {Span::Kind::block_prev, c_.block},
                        {.causal = context.causal, .key_lengths = context.lengths})
      .output;
}

RoutingAttention::Placed RoutingAttention::place(const Tensor& x, const Tensor& hidden) const {
  Placed p;
  if (centroids) {
    p.points = centroids->points(x);
    p.nearness = centroids->nearness(p.points, hidden);
    p.nearest = argmax(p.nearness, 2);
    count_score_entries(p.nearness.numel());
    return p;
  }
  const NoGrad off;
  p.nearness = c_.selection == "hash"
                   ? hashed(x.detach(), directions)
                   : rand({x.size(0), x.size(1), c_.clusters, x.size(2)}, DType::f32, x.device());
  if (hidden.defined()) p.nearness = masked_fill(p.nearness, unsqueeze(hidden, 2), -INFINITY);
  return p;
}

Tensor RoutingAttention::route(const Heads& h, const AttentionContext& context) {
  const Tensor hidden = hidden_tokens(context.lengths, h.q.size(2));
  if (centroids) centroids->begin(centroids->points(h.q), hidden);
  const Placed q = place(h.q, hidden);
  const Placed k = c_.share_qk ? q : place(h.k, hidden);
  const Tensor o = meet(h, q, k, context);
  if (!centroids) return o;
  probe("nearest", q.nearest);
  add_losses(q, k, hidden, context);
  centroids->learn(q.points, q.nearest, hidden);
  if (!c_.share_qk) centroids->learn(k.points, k.nearest, hidden);
  return o;
}

void RoutingAttention::add_losses(const Placed& q, const Placed& k, const Tensor& hidden,
                                  const AttentionContext& context) const {
  if (!context.layer.watched()) return;
  const auto both = [&](auto distance) {
    return c_.share_qk ? distance(q) * 2 : distance(q) + distance(k);
  };
  if (c_.commitment > 0) {
    context.layer.add_loss(
        both([&](const Placed& p) { return centroids->distance(p.points, p.nearest, hidden); }) *
        c_.commitment);
  }
  if (centroids->learned()) {
    context.layer.add_loss(both([&](const Placed& p) {
      return centroids->codebook_distance(p.points, p.nearest, hidden);
    }));
  }
}

AttentionOptions RoutingAttention::routing_options(const AttentionContext& context) const {
  AttentionOptions o{.causal = context.causal,
                     .scale = c_.route_scale.value_or(0),
                     .key_lengths = context.lengths};
  if (c_.mask_self) o.score = self_score(kSelfScore);
  return o;
}

// Who is in which cluster, i32 (B, H, C, window), in the order of the text.
Tensor RoutingAttention::lists(const Tensor& nearness) const {
  const NoGrad off;
  const int64_t tokens = nearness.size(3), count = std::min(c_.window, tokens);
  const Tensor chosen =
      c_.selection == "strided"
          ? slice(slice(argsort(nearness, -1, true), -1, 0, kEnd, tokens / count), -1, 0, count)
          : topk(nearness, count, -1).indices;
  return sort(chosen, -1).values.to(DType::i32);
}

Tensor RoutingAttention::meet(const Heads& h, const Placed& q, const Placed& k,
                              const AttentionContext& context) const {
  const Tensor queries = lists(q.nearness), keys = c_.share_qk ? queries : lists(k.nearness);
  const Tensor ids = flatten(queries, 2).to(DType::i64);
  const Tensor none = zeros({h.q.size(0), routing_, h.q.size(2)}, {DType::f32, h.q.device()});
  const Tensor times = scatter_add(none, 2, ids, ones_like(ids).to(DType::f32));
  probe("lists", queries);
  if (!training() && context.layer.watched()) {  // how many tokens found a cluster
    context.layer.add_figure("routed", mean(gt(times, 0).to(DType::f32)));
  }
  const Tensor share = reciprocal(clamp(times + c_.scatter_eps, kNormEpsilon, INFINITY));
  const Tensor sums = routing_relative
                          ? relative_meet(h, queries, keys, context)
                          : grouped_gather_attention(h.q, h.k, h.v, queries, keys, Combine::sum,
                                                     routing_options(context))
                                .output;
  return sums * unsqueeze(share.to(sums.dtype()), -1);
}

Tensor RoutingAttention::relative_meet(const Heads& h, const Tensor& queries, const Tensor& keys,
                                       const AttentionContext& context) const {
  const int64_t batch = h.q.size(0), clusters = queries.size(2), window = queries.size(3);
  const DType dtype = is_half(h.q.dtype()) ? DType::f32 : h.q.dtype();
  const Tensor q_ids = queries.to(DType::i64), k_ids = keys.to(DType::i64);
  const auto taken = [&](const Tensor& x, const Tensor& ids) {
    return reshape(rows(x.to(dtype), flatten(ids, 2)),
                   {batch, routing_, clusters, window, head_dim_});
  };
  const Tensor q_at = unsqueeze(q_ids, -1), k_at = unsqueeze(k_ids, -2);
  const Tensor rank = count_up(0, window, h.q.device());
  RelativeScores s{.offsets = unsqueeze(rank, 0) - unsqueeze(rank, 1),
                   .hidden = context.causal ? gt(k_at, q_at) : lt(k_at + 0 * q_at, 0),
                   .scale = c_.route_scale.value_or(1 / std::sqrt(static_cast<double>(head_dim_)))};
  if (context.lengths.defined()) {
    const Tensor length = reshape(context.lengths.to(DType::i64), {batch, 1, 1, 1, 1});
    s.hidden = logical_or(s.hidden, ge(k_at, length));
  }
  if (c_.mask_self) s.self = eq(k_at, q_at);
  const Tensor o = relative_attention(taken(h.q, q_ids), taken(h.k, k_ids), taken(h.v, k_ids),
                                      *routing_relative, s);
  count_score_entries(batch * routing_ * clusters * window *
                      (context.causal ? window + 1 : 2 * window) / 2);
  const Tensor index = expand(unsqueeze(flatten(q_ids, 2), -1), {-1, -1, -1, head_dim_});
  return scatter_add(zeros(h.v.shape(), {dtype, h.v.device()}), 2, index, flatten(o, 2, 3))
      .to(h.v.dtype());
}

// Blocks of queries beside the keys of the block before, their own and, looking both ways, the
// next.
Tensor RoutingAttention::relative_local(const Heads& h, const AttentionContext& context) const {
  const int64_t tokens = h.q.size(2), size = std::min(c_.block, tokens);
  const int64_t blocks = (tokens + size - 1) / size, reach = context.causal ? 2 : 3;
  const DType dtype = is_half(h.q.dtype()) ? DType::f32 : h.q.dtype();
  const Device device = h.q.device();
  const auto empty_tokens = [&](int64_t count) {
    return zeros({h.q.size(0), h.q.size(1), count, head_dim_}, {dtype, device});
  };
  const auto cut = [&](const Tensor& x, int64_t shift) {  // block u of tokens from u · size + shift
    const Tensor all =
        concat({empty_tokens(size), x.to(dtype), empty_tokens((blocks + 1) * size - tokens)}, 2);
    return reshape(slice(all, 2, size + shift, (blocks + 1) * size + shift),
                   {x.size(0), x.size(1), blocks, size, head_dim_});
  };
  const auto beside = [&](const Tensor& x) {
    TensorList near;
    for (int64_t n = -1; n < reach - 1; ++n) near.push_back(cut(x, n * size));
    return concat(near, 3);
  };
  const Tensor i = reshape(count_up(0, size, device), {size, 1});
  const Tensor j = count_up(-size, (reach - 1) * size, device);
  const Tensor first =
      reshape(count_up(0, blocks, device) * static_cast<double>(size), {1, 1, blocks, 1, 1});
  const Tensor q_at = first + i, k_at = first + j;
  Tensor hidden = logical_or(lt(k_at + 0 * q_at, 0), ge(k_at, static_cast<double>(tokens)));
  if (context.causal) hidden = logical_or(hidden, gt(k_at, q_at));
  if (context.lengths.defined()) {
    const Tensor length = reshape(context.lengths.to(DType::i64), {-1, 1, 1, 1, 1});
    hidden = logical_or(hidden, ge(k_at, length));
  }
  const RelativeScores s{
      .offsets = j - i, .hidden = hidden, .scale = 1 / std::sqrt(static_cast<double>(head_dim_))};
  const Tensor o = relative_attention(cut(h.q, 0), beside(h.k), beside(h.v), *local_relative, s);
  count_score_entries(h.q.size(0) * h.q.size(1) *
                      Span{Span::Kind::block_prev, size}.entries(tokens));
  return slice(flatten(o, 2, 3), 2, 0, tokens).to(h.v.dtype());
}

void StrictRouting::capabilities(Capabilities& c) {
  c.unsupported(capability::kBidirectional, "it is the causal form of routing");
  c.unsupported(capability::kLengths, "its cache holds sequences of one length");
  c.unsupported(capability::kScoreBias, kNoBias);
}

StrictRouting::StrictRouting(const Config& c, const Geometry& g)
    : RoutingAttention("strict_routing", c, g) {
  check(c.share_qk && c.selection == "clusters" && c.relative == 0,
        "strict_routing: wants share_qk, selection \"clusters\" and relative 0");
}

Tensor StrictRouting::meet(const Heads& h, const Placed& q, const Placed&,
                           const AttentionContext& context) const {
  check(context.causal, "strict_routing: it is the causal form of routing");
  const Tensor order = argsort(q.nearest, -1), back = argsort(order, -1);
  AttentionOptions o = routing_options(context);
  o.left = c_.window - 1;
  o.query_segments = o.key_segments = gather(q.nearest, 2, order).to(DType::i32);
  const Tensor sorted = rows(h.q, order);
  return rows(dense_attention(sorted, sorted, rows(h.v, order), o).output, back);
}

Tensor StrictRouting::mixed(const Heads& routing, const Heads& local_heads,
                            const AttentionContext& context) {
  check(!context.lengths.defined(), "strict_routing: its cache holds sequences of one length");
  if (context.cache == nullptr) return RoutingAttention::mixed(routing, local_heads, context);
  KvCache& cache = *context.cache;
  const bool fresh = cache.length() == 0;
  const auto both = [](const Tensor& a, const Tensor& b) {
    return !a.defined() ? b : !b.defined() ? a : concat({a, b}, 1);
  };
  cache.append(both(routing.k, local_heads.k), both(routing.v, local_heads.v));
  const auto past = [&](const Tensor& x, int64_t first, int64_t last) {
    return slice(x, 1, first, last)
        .to(routing.q.defined() ? routing.q.dtype() : local_heads.q.dtype());
  };
  TensorList y;
  if (routing.q.defined()) {
    const Placed placed = place(routing.q, {});
    Tensor& nearest = cache.state("nearest");
    nearest = nearest.defined() ? concat({nearest, placed.nearest}, 2) : placed.nearest;
    y.push_back(fresh ? meet(routing, placed, placed, context)
                      : meet_past(routing.q, past(cache.key(), 0, routing_),
                                  past(cache.value(), 0, routing_), placed.nearest, cache));
  }
  if (local_heads.q.defined()) {
    y.push_back(fresh ? local(local_heads, context)
                      : span_attention_from(0, local_heads.q, past(cache.key(), routing_, heads_),
                                            past(cache.value(), routing_, heads_),
                                            {Span::Kind::block_prev, c_.block}, {})
                            .output);
  }
  return y.size() == 1 ? y[0] : concat(y, 1);
}

// Of each new token the last `window` tokens with the same nearest centroid.
Tensor StrictRouting::meet_past(const Tensor& q, const Tensor& key, const Tensor& value,
                                const Tensor& nearest, KvCache& cache) const {
  const int64_t tokens = q.size(2), all = key.size(2);
  const Tensor at = count_up(0, all, q.device());
  const Tensor same = eq(unsqueeze(nearest, 3), unsqueeze(cache.state("nearest"), 2));
  const Tensor past = le(at, unsqueeze(count_up(all - tokens, all, q.device()), 1));
  const Tensor candidates =
      where(logical_and(same, past), at, full({}, -1, {DType::i64, q.device()}));
  const Tensor lists = topk(candidates, std::min(c_.window, all), -1).values.to(DType::i32);
  AttentionOptions o = routing_options({.causal = true});
  return gather_attention(q, key, value, lists, o).output;
}

}  // namespace tessera
