#include "tessera/attention/engines/linear.h"

#include "tessera/attention/engines/engine.h"
#include "tessera/attention/engines/linear_pass.h"
#include "tessera/attention/engines/work.h"
#include "tessera/autograd/op.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/matmul.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/registry.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/accumulate.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/view.h"

namespace tessera {
namespace {

using linear_engine::Pass;
using linear_engine::Sums;

// Sums over the query heads that share a key head.
Tensor sum_groups(const Tensor& x, int64_t heads) {
  if (x.size(1) == heads) return x;
  const Tensor groups =
      views::reshape(x, {x.size(0), heads, x.size(1) / heads, x.size(2), x.size(3)});
  return kernels::sum(groups, {2}, false);
}

// inputs: query, key, value, log_decay or nothing, initial_state or nothing.
struct LinearAttention {
  static constexpr std::string_view name = "linear_attention";
  LinearOptions options;
  bool wide = false;  // the output in the states' dtype

  TensorList forward(Forward& f, const Tensor& query, const Tensor& key, const Tensor& value,
                     const Tensor& log_decay, const Tensor& initial_state) const {
    Pass p = pass(query, key, value, log_decay, query.size(1));
    p.wide = wide;
    const Tensor entering = linear_engine::states(p, initial_state);
    const Sums r = linear_engine::sums(p, entering, true);
    count(p);
    f.save(entering);
    return {r.output, r.state};
  }

  TensorList definition(const TensorList& in) const {
    const LinearResult r = linear_attention_reference(in[0], in[1], in[2], in[3], in[4], options);
    return {wide ? r.output.to(r.state.dtype()) : r.output, r.state};
  }

  void backward(Backward& b) const {
    const Tensor q = b.input(0), k = b.input(1), v = b.input(2), log_decay = b.input(3);
    const Tensor grad_out = kernels::cast(b.grad(0), q.dtype()), entering = b.saved(0);
    const bool decays = b.needs(3);
    auto backwards = [&](const Tensor& query, const Tensor& key, const Tensor& value) {
      Pass p = pass(query, key, value, log_decay, q.size(1));
      p.backward = true;
      return p;
    };
    const Tensor left =
        linear_engine::states(backwards({}, q, grad_out), b.has_grad(1) ? b.grad(1) : Tensor());
    Sums of_query, of_key;
    if (b.needs(0) || decays) {
      of_query =
          linear_engine::sums(pass(grad_out, v, k, log_decay, q.size(1)),
                              views::transpose(entering, 3, 4), false, decays ? q : Tensor());
      b.add(0, of_query.output);
    }
    if (b.needs(1) || decays) {
      of_key = linear_engine::sums(backwards(v, grad_out, q), views::transpose(left, 3, 4), false,
                                   decays ? k : Tensor(), of_query.trace.chunk_states);
      b.add(1, sum_groups(of_key.output, k.size(1)));
    }
    if (b.needs(2) || b.needs(4)) {
      const Sums r = linear_engine::sums(backwards(k, q, grad_out), left, b.needs(4));
      b.add(2, sum_groups(r.output, v.size(1)));
      b.add(4, r.state);
    }
    if (!decays) return;
    const Tensor g = linear_engine::decay_gradient(pass(q, k, v, log_decay, q.size(1)),
                                                   of_query.trace, of_key.trace);
    b.add(3, log_decay.rank() == 3 ? g : kernels::sum(g, {0, 2}, false));
  }

 private:
  Pass pass(const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& log_decay,
            int64_t heads) const {
    Pass p{.query = query,
           .key = key,
           .value = value,
           .log_decay = log_decay.defined() ? kernels::contiguous(log_decay) : log_decay,
           .heads = heads,
           .scale = options.scale};
    linear_engine::choose_lengths(p, options.chunk);
    return p;
  }

  static void count(const Pass& p) {
    const int64_t whole = p.length() / p.chunk, rest = p.length() % p.chunk;
    const int64_t entries =
        p.batch() * p.heads * (whole * p.chunk * (p.chunk + 1) / 2 + rest * (rest + 1) / 2);
    count_score_entries(entries);
    engine::count_multiply_adds(entries, p.query.size(-1), p.value.size(-1));
    // Each token reads the state of the past and adds to it.
    const int64_t state = p.query.size(-1) * p.value.size(-1);
    engine::count_multiply_adds(p.batch() * p.heads * p.length(), state, state);
  }
};

void check_heads(const Tensor& q, const Tensor& k, const Tensor& v) {
  check(q.rank() == 4 && k.rank() == 4 && v.rank() == 4,
        "linear_attention: wants (B, H, N, D), got {}, {}, {}", q.shape(), k.shape(), v.shape());
  check(q.size(0) == k.size(0) && q.size(3) == k.size(3) && k.size(0) == v.size(0) &&
            k.size(1) == v.size(1) && k.size(2) == v.size(2),
        "linear_attention: query {}, key {} and value {} do not fit one another", q.shape(),
        k.shape(), v.shape());
  check(k.size(1) > 0 && q.size(1) % k.size(1) == 0,
        "linear_attention: {} query heads are not a multiple of {} key heads", q.size(1),
        k.size(1));
  check(is_floating(q.dtype()) && q.dtype() == k.dtype() && k.dtype() == v.dtype(),
        "linear_attention: dtypes must be one floating type, got {}, {}, {}", q.dtype(), k.dtype(),
        v.dtype());
}

void check_device(const Tensor& query, const Tensor& x) {
  if (!x.defined()) return;
  check(x.device() == query.device(),
        "linear_attention: inputs lie on {} and {}; move them to one device", query.device(),
        x.device());
}

// A decay or state in the dtype of states.
Tensor in_state_dtype(const char* what, const Tensor& x, const Tensor& query) {
  if (!x.defined()) return x;
  const DType dtype = linear_engine::state_dtype(query.dtype());
  check(x.dtype() == query.dtype() || x.dtype() == dtype,
        "linear_attention: {} must be {} or {} beside queries of {}, got {}", what, query.dtype(),
        dtype, query.dtype(), x.dtype());
  return x.to(dtype);
}

void check_decay(const Tensor& q, const Tensor& g) {
  if (!g.defined()) return;
  check(g.shape() == Shape{q.size(1)} || g.shape() == Shape{q.size(0), q.size(1), q.size(2)},
        "linear_attention: log_decay must be (H) or (B, H, N) of query {}, got {}", q.shape(),
        g.shape());
}

void check_state(const Tensor& q, const Tensor& v, const Tensor& state) {
  if (!state.defined()) return;
  const Shape shape{q.size(0), q.size(1), q.size(3), v.size(3)};
  check(state.shape() == shape, "linear_attention: the state must be {}, got {}", shape,
        state.shape());
}

LinearResult attend(const Tensor& query, const Tensor& key, const Tensor& value,
                    const Tensor& log_decay, const Tensor& initial_state,
                    const LinearOptions& options, bool wide) {
  check_state(query, value, initial_state);
  const TensorList r = apply(LinearAttention{options, wide}, query, key, value,
                             in_state_dtype("log_decay", log_decay, query),
                             in_state_dtype("the state", initial_state, query));
  return {r[0], r[1]};
}

// All columns but the last over the last.
Tensor normalised(const Tensor& y, double epsilon) {
  return slice(y, -1, 0, y.size(-1) - 1) / (slice(y, -1, y.size(-1) - 1) + epsilon);
}

}  // namespace

LinearResult linear_attention(const Tensor& query, const Tensor& key, const Tensor& value,
                              const Tensor& log_decay, const Tensor& initial_state,
                              const LinearOptions& options) {
  check_heads(query, key, value);
  for (const Tensor& x : {key, value, log_decay, initial_state}) check_device(query, x);
  check(query.size(2) == key.size(2), "linear_attention: {} queries but {} keys", query.size(2),
        key.size(2));
  check(options.chunk >= 0, "linear_attention: chunk {} must not be negative", options.chunk);
  check_decay(query, log_decay);
  if (!options.normalise) {
    return attend(query, key, value, log_decay, initial_state, options, false);
  }
  LinearOptions plain = options;
  plain.normalise = false;
  const Tensor one =
      ones({value.size(0), value.size(1), value.size(2), 1}, {value.dtype(), value.device()});
  const LinearResult r =
      attend(query, key, concat({value, one}, -1), log_decay, initial_state, plain, true);
  return {normalised(r.output, options.epsilon).to(query.dtype()), r.state};
}

LinearResult linear_attention_step(const Tensor& query, const Tensor& key, const Tensor& value,
                                   const Tensor& log_decay, const Tensor& state,
                                   const LinearOptions& options) {
  check(query.rank() == 4 && query.size(2) == 1,
        "linear_attention_step: wants one token, (B, H, 1, D), got {}", query.shape());
  return linear_attention(query, key, value, log_decay, state, options);
}

LinearResult linear_attention_full(const Tensor& query, const Tensor& key, const Tensor& value,
                                   const LinearOptions& options) {
  check_heads(query, key, value);
  for (const Tensor& x : {key, value}) check_device(query, x);
  const int64_t batch = key.size(0), key_heads = key.size(1), group = query.size(1) / key_heads;
  Tensor v = value;
  if (options.normalise) {
    v = concat({v, ones({batch, key_heads, v.size(2), 1}, {v.dtype(), v.device()})}, -1);
  }
  const Tensor state = matmul(transpose(key, -1, -2), v);
  // The query heads of a key head are more rows of one product.
  const Tensor rows = reshape(query, {batch, key_heads, group * query.size(2), query.size(3)});
  const Tensor y = reshape(matmul(rows, state) * options.scale,
                           {batch, query.size(1), query.size(2), v.size(3)});
  return {options.normalise ? normalised(y, options.epsilon) : y, state};
}

namespace {

struct SampleShape {
  int64_t batch = 1, heads = 2, key_heads = 2, length = 5, width = 3, value_width = 2;
};
enum class Decay { none, fixed, per_token };

OpSample linear_sample(const char* label, const SampleShape& s, Decay decay, bool state,
                       LinearOptions options = {}) {
  TensorList inputs{samples::strided(samples::normal({s.batch, s.heads, s.length, s.width})),
                    samples::normal({s.batch, s.key_heads, s.length, s.width}, 1),
                    samples::normal({s.batch, s.key_heads, s.length, s.value_width}, 2)};
  if (options.normalise) {
    for (size_t i = 0; i < 2; ++i) inputs[i] = samples::positive(inputs[i].shape(), i);
  }
  const Shape per_token{s.batch, s.heads, s.length};
  inputs.push_back(
      decay == Decay::none
          ? Tensor()
          : samples::uniform(decay == Decay::fixed ? Shape{s.heads} : per_token, -1, -0.05, 3));
  const int64_t columns = s.value_width + (options.normalise ? 1 : 0);
  const Shape entering{s.batch, s.heads, s.width, columns};
  inputs.push_back(!state              ? Tensor()
                   : options.normalise ? samples::positive(entering, 4)
                                       : samples::normal(entering, 4));
  auto with = [options](auto function) {
    return [function, options](const TensorList& in) {
      const LinearResult r = function(in[0], in[1], in[2], in[3], in[4], options);
      return TensorList{r.output, r.state};
    };
  };
  return {label, inputs, with(linear_attention), with(linear_attention_reference)};
}

const RegisterOp row{{
    .name = "linear_attention",
    .formula = "S_t = exp(g_t) S_{t−1} + k_t v_tᵀ, o_t = scale S_tᵀ q_t",
    .source = "Katharopoulos et al. 2020; Sun et al. 2023; Qin et al. 2024; Yang et al. 2024",
    .samples =
        [] {
          using enum Decay;
          return std::vector<OpSample>{
              linear_sample("no decay", {.batch = 2}, none, false),
              linear_sample("a decay per head", {.length = 7}, fixed, false,
                            {.scale = 0.5, .chunk = 2}),
              linear_sample("a decay per head, state", {.length = 3}, fixed, true),
              linear_sample("a decay per token", {.batch = 2, .length = 7}, per_token, false,
                            {.chunk = 3}),
              linear_sample("a decay per token, state", {}, per_token, true,
                            {.scale = -0.3, .chunk = 2}),
              linear_sample("grouped heads", {.heads = 4}, per_token, true),
              linear_sample("normalised", {.width = 2}, fixed, true, {.normalise = true}),
              linear_sample("one token", {.length = 1}, per_token, true),
              linear_sample("no token", {.length = 0}, fixed, true),
              linear_sample("no batch", {.batch = 0}, per_token, true)};
        },
    .wrong_calls = {[] {
                      const Tensor x = samples::normal({1, 3, 4, 2});
                      const Tensor y = samples::normal({1, 2, 4, 2});
                      linear_attention(x, y, y);
                    },
                    [] {
                      const Tensor x = samples::normal({1, 2, 4, 2});
                      linear_attention(x, x, x, samples::normal({4}));
                    },
                    [] {
                      const Tensor x = samples::normal({1, 2, 4, 2});
                      linear_attention(x, x, x, {}, samples::normal({1, 2, 2, 3}));
                    },
                    [] {
                      const Tensor x = samples::normal({1, 2, 4, 2});
                      linear_attention(x, x, samples::normal({1, 2, 5, 2}));
                    }},
}};

}  // namespace
}  // namespace tessera
