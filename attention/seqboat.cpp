#include "tessera/attention/seqboat.h"

#include <cmath>

#include "tessera/attention/engines/dense.h"
#include "tessera/attention/engines/scores.h"
#include "tessera/attention/kv_cache.h"
#include "tessera/autograd/ops/activation.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/comparison.h"
#include "tessera/autograd/ops/elementwise.h"
#include "tessera/autograd/ops/indexing.h"
#include "tessera/autograd/ops/reduce.h"
#include "tessera/autograd/ops/scan.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/tape.h"
#include "tessera/core/create.h"
#include "tessera/nn/init.h"

namespace tessera {
namespace {

TESSERA_REGISTER(Attention, SeqBoat, "seqboat",
                 "a moving average chooses the tokens that attend, in a window of the chosen",
                 "Ren et al. 2023");

constexpr double kStd = 0.02;  // of gains and biases

Tensor truncated(const Shape& shape, double stddev) {
  return init::truncated_normal(shape, stddev, 2 * stddev);
}

int64_t query_width_of(const SeqBoatConfig& c, int64_t width) {
  return c.query_width.value_or(std::max<int64_t>(2, width / 4 / 2 * 2));
}

int64_t hidden_of(const SeqBoatConfig& c, int64_t width) {
  return c.hidden.value_or(2 * width);
}

Tensor count_to(int64_t n, Device device) {
  return unsqueeze(arange(0, static_cast<double>(n), 1, {DType::i64, device}), 0);
}

// bool (B, N): tokens before the lengths; undefined without lengths.
Tensor valid_tokens(const Tensor& lengths, int64_t n) {
  if (!lengths.defined()) return {};
  return lt(count_to(n, lengths.device()), unsqueeze(lengths.to(DType::i64), 1));
}

// Rows whose first tokens, as many as `lengths` says, stand at the end, behind zeros.
Tensor moved_to_end(const Tensor& x, const Tensor& lengths) {
  const int64_t n = x.size(1);
  const Tensor from =
      count_to(n, x.device()) + unsqueeze(lengths.to(DType::i64) - static_cast<double>(n), 1);
  const Tensor rows = expand(unsqueeze(clamp(from, 0, static_cast<double>(n)), -1), x.shape());
  return masked_fill(gather(x, 1, rows), unsqueeze(lt(from, 0), -1), 0);
}

// i64 (N) or (B, N) → (B, N), at the packed places.
Tensor packed_positions(const Tensor& positions, const Packing& p) {
  const Tensor rows = positions.rank() == 1 ? unsqueeze(positions, 0) : positions;
  return gather(expand(rows, p.entry.shape()), 1, p.entry);
}

// (B, N) as an option of engines, i32 (B, 1, N).
Tensor per_row(const Tensor& x) {
  return unsqueeze(x.to(DType::i32), 1);
}

// The mean distance in original positions from a packed token to those of its window before it.
Tensor mean_span(const Packing& p, const Tensor& positions, int64_t window) {
  const int64_t n = positions.size(1), reach = std::min(window, n);
  const Tensor at = where(p.filled, positions, zeros_like(positions)).to(DType::f64);
  const Tensor before = cumsum(at, 1, {.exclusive = true});
  const Tensor far = concat(
      {zeros({at.size(0), reach}, {DType::f64, at.device()}), slice(before, 1, 0, n - reach)}, 1);
  const Tensor place = count_to(n, at.device());
  const Tensor number = clamp(place, 1, static_cast<double>(window)).to(DType::f64);
  const Tensor counts = logical_and(p.filled, ge(place, 1.0)).to(DType::f64);
  return sum((at - (before - far) / number) * counts) / clamp(sum(counts), 1, INFINITY);
}

}  // namespace

struct SeqBoat::Past {
  Tensor key, value;  // (B, 1, w, ·), the newest last
  Tensor positions;   // i64 (B, w), original ones
  Tensor held;        // i64 (B): how many are there

  int64_t size() const { return key.defined() ? key.size(2) : 0; }
  // What a cache holds; places for `window` that nobody has taken yet if it is fresh.
  static Past of(KvCache& cache, const Tensor& key, const Tensor& value, int64_t window) {
    if (!cache.state("held").defined()) {
      const int64_t batch = key.size(0);
      const Options i64{DType::i64, key.device()};
      cache.state("key") = zeros({batch, 1, window, key.size(3)}, {key.dtype(), key.device()});
      cache.state("value") = zeros({batch, 1, window, value.size(3)}, {key.dtype(), key.device()});
      cache.state("positions") = zeros({batch, window}, i64);
      cache.state("held") = zeros({batch}, i64);
    }
    return {cache.state("key"), cache.state("value"), cache.state("positions"),
            cache.state("held")};
  }
  // These, then new ones, of which each row has `count`.
  Past followed_by(const Tensor& new_key, const Tensor& new_value, const Tensor& at) const {
    if (!key.defined()) return {new_key, new_value, at, {}};
    return {concat({key, new_key}, 2), concat({value, new_value}, 2), concat({positions, at}, 1),
            held};
  }
  // Keeps the last `window` in a cache, after `count` of each row were added.
  void keep(KvCache& cache, const Tensor& count, int64_t window) const {
    NoGrad off;
    const Tensor rows = count_to(window, key.device()) + unsqueeze(count, 1);
    auto newest = [&](const Tensor& x) {
      const Tensor index = reshape(rows, {rows.size(0), 1, window, 1});
      return gather(x, 2, expand(index, {x.size(0), 1, window, x.size(3)}));
    };
    cache.state("key") = newest(key);
    cache.state("value") = newest(value);
    cache.state("positions") = gather(positions, 1, rows);
    cache.state("held") = clamp(held + count, 0, static_cast<double>(window));
  }
};

SeqBoat::SeqBoat(const Config& c, const Geometry& g, bool bidirectional)
    : average(g.width, c.ema, bidirectional, c.truncation),
      choice(Linear::truncated_normal(g.width, g.width + (c.always_act ? 0 : 2), true,
                                      c.init_std.value_or(g.init_std))),
      unit(Linear::truncated_normal(g.width, query_width_of(c, g.width) + 2 * hidden_of(c, g.width),
                                    true, c.init_std.value_or(g.init_std))),
      gain(parameter(truncated({2, query_width_of(c, g.width)}, c.init_std.value_or(kStd)))),
      shift(parameter(zeros({2, query_width_of(c, g.width)}))),
      out(Linear::truncated_normal(hidden_of(c, g.width), g.width, true,
                                   c.init_std.value_or(g.output_init_std))),
      drop(c.dropout),
      drop_hidden(c.hidden_dropout),
      query_width_(query_width_of(c, g.width)),
      hidden_(hidden_of(c, g.width)),
      window_(c.window),
      bidirectional_(bidirectional),
      softmax_(c.kernel == "softmax"),
      by_original_(c.bias == "original") {
  if (c.bias == "packed") distance_bias = parameter(truncated({1, 2 * window_ + 1}, kStd));
  if (by_original_) {
    const int64_t positions = c.max_positions.value_or(g.context);
    check(positions > 0, "seqboat: bias \"original\" wants max_positions or a known context");
    distance_bias = parameter(truncated({1, 2 * positions - 1}, kStd));
  }
  if (c.always_act) return;
  const double start = c.init_temperature * std::sqrt(static_cast<double>(g.width));
  log_temperature = parameter(full({1}, std::log(start)));
}

void SeqBoat::capabilities(Capabilities& c) {
  c.unsupported(capability::kBidirectional,
                "its moving average runs forward; the model seqboat_image has one for each side");
  c.unsupported(capability::kScoreBias, "it learns a bias of its own");
}

SeqBoat::Activation SeqBoat::activate(const Tensor& u, const Tensor& valid) const {
  if (!log_temperature.defined()) {
    const Shape shape{u.size(0), u.size(1)};
    return {valid.defined() ? valid : full(shape, 1, {DType::boolean, u.device()}), {}};
  }
  // A softmax of two is a logistic function of their difference; a tie is inactive.
  const Tensor full = is_half(u.dtype()) ? u.to(DType::f32) : u;
  const Tensor lead =
      (select(full, -1, 1) - select(full, -1, 0)) / exp(log_temperature.to(full.dtype()));
  const Tensor ahead = gt(lead, 0);
  return {valid.defined() ? logical_and(ahead, valid) : ahead, sigmoid(lead)};
}

Tensor SeqBoat::average_of(const Tensor& x, const Tensor& valid,
                           const AttentionContext& context) const {
  KvCache* cache = context.cache;
  if (cache == nullptr) return average(x, valid);
  Tensor state = cache->state("average");
  std::vector<int64_t> counts;
  if (valid.defined()) {
    check(!state.defined(), "seqboat: sequences go on through a cache by equally many tokens");
    counts = context.lengths.to_vector<int64_t>();
    average.step(moved_to_end(x, context.lengths), state);
  }
  Tensor after = cache->state("average");
  const Tensor m = average.step(x, after);
  cache->state("average") = (valid.defined() ? state : after).detach();
  // What is kept are states; keys of width 0 count the tokens.
  const Tensor nothing = empty({x.size(0), 1, x.size(1), 0}, {x.dtype(), x.device()});
  cache->append(nothing, nothing, counts);
  return m;
}

AttentionOptions SeqBoat::options_of(const Packing& packing, const Tensor& positions,
                                     const Past& past) const {
  const int64_t n = positions.size(1), before = past.size();
  const auto shift_by = static_cast<double>(before);
  const Tensor place = count_to(n, positions.device());
  const Tensor last = unsqueeze(packing.count, 1) + shift_by;
  const Tensor first = before > 0 ? (shift_by - unsqueeze(past.held, 1)) : zeros_like(last);
  const Tensor begin = maximum(place + (shift_by - static_cast<double>(window_)), first);
  const Tensor end =
      minimum(place + shift_by + (bidirectional_ ? static_cast<double>(window_ + 1) : 1.0), last);
  AttentionOptions o;
  o.key_begin = per_row(begin);
  o.key_end = per_row(where(packing.filled, end, zeros_like(end)));
  if (!softmax_) o.scale = 1 / static_cast<double>(bidirectional_ ? 2 * window_ : window_);
  if (by_original_) {
    o.query_positions = per_row(positions);
    o.key_positions =
        before > 0 ? per_row(concat({past.positions, positions}, 1)) : o.query_positions;
    o.score = softmax_ ? clamped_bias(distance_bias, distance_bias.size(1) / 2)
                       : relu_squared(distance_bias, distance_bias.size(1) / 2);
    return o;
  }
  // The same window once more: engines skip what lies outside of it.
  o.causal = !bidirectional_;
  o.left = window_;
  if (bidirectional_) o.right = window_;
  if (distance_bias.defined()) {
    o.score = softmax_ ? offset_bias(distance_bias, window_) : relu_squared(distance_bias, window_);
  } else if (!softmax_) {
    o.score = relu_squared();
  }
  return o;
}

Tensor SeqBoat::attend(const Tensor& y, const Packing& packing,
                       const AttentionContext& context) const {
  const TensorList parts =
      split(silu(unit(pack_rows(y, packing))), {query_width_, hidden_, hidden_}, -1);
  auto shared = [&](int64_t which) {
    return unsqueeze(parts[0] * select(gain, 0, which) + select(shift, 0, which), 1);
  };
  Tensor q = shared(0), k = shared(1);
  const Tensor v = unsqueeze(drop_hidden(parts[2]), 1);
  const Tensor at = packed_positions(context.positions, packing);
  if (context.encoding != nullptr) {
    q = context.encoding->rotate(q, unsqueeze(at, 1));
    k = context.encoding->rotate(k, unsqueeze(at, 1));
  }
  const Past past = context.cache != nullptr ? Past::of(*context.cache, k, v, window_) : Past{};
  const Past all = past.followed_by(k, v, at);
  const AttentionResult r = dense_attention(q, all.key, all.value, options_of(packing, at, past));
  if (context.cache != nullptr) all.keep(*context.cache, packing.count, window_);
  Tensor o = squeeze(r.output, 1);
  if (!softmax_) o = (o * unsqueeze(exp(squeeze(r.logsumexp, 1)), -1)).to(y.dtype());
  const Tensor h = out(o * parts[1]);
  return unpack_rows(bidirectional_ ? drop(h) : h, packing);
}

void SeqBoat::report(const Packing& packing, const Tensor& positions, const Tensor& valid,
                     const LayerContext& context) const {
  NoGrad off;
  const Tensor there =
      valid.defined() ? sum(valid.to(DType::f64), {1})
                      : full(packing.count.shape(), static_cast<double>(packing.chosen.size(1)),
                             {DType::f64, packing.chosen.device()});
  const Tensor rate = packing.count.to(DType::f64) / clamp(there, 1, INFINITY);
  context.add_figure("activation_rate", mean(rate));
  context.add_figure("activation_deviation", stddev(rate));
  if (log_temperature.defined()) context.add_figure("temperature", exp(log_temperature));
  const Tensor at = packed_positions(positions, packing);
  context.add_figure("attended_span", mean_span(packing, at, window_));
}

Tensor SeqBoat::operator()(const Tensor& x, const AttentionContext& context) {
  check(context.causal != bidirectional_, "seqboat: a layer {} is asked to be {}",
        bidirectional_ ? "that looks both ways" : "whose moving average runs forward",
        context.causal ? "causal" : "bidirectional");
  check(context.encoding == nullptr || score_of(*context.encoding, x.device()).is_identity(),
        "seqboat: positions may not bias its scores; it learns a bias of its own");
  const Tensor valid = valid_tokens(context.lengths, x.size(1));
  const Tensor y = drop(silu(average_of(x, valid, context)));
  const Tensor mixed = choice(y);
  const int64_t options = mixed.size(-1) - x.size(-1);
  const Tensor u = slice(mixed, -1, 0, options);
  probe("options", u);
  const Activation a = activate(u, valid);
  const Packing packing = packing_of(a.chosen);
  probe("active", a.chosen);
  if (context.layer.watched() && !training()) {
    report(packing, context.positions, valid, context.layer);
  }
  const Tensor hx = slice(mixed, -1, options);
  // In generation on the CPU a step without active tokens touches no attention.
  if (context.cache != nullptr && !x.device().is_cuda() && sum(packing.count).item() == 0)
    return hx;
  Tensor h = attend(y, packing, context);
  if (a.confidence.defined()) h = h * unsqueeze(a.confidence, -1).to(h.dtype());
  return hx + h;
}

}  // namespace tessera
