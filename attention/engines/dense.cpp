#include "tessera/attention/engines/dense.h"

#include "tessera/attention/engines/dense_cuda.h"
#include "tessera/attention/engines/scores.h"
#include "tessera/attention/engines/sparse_cuda.h"
#include "tessera/attention/engines/tiles.h"
#include "tessera/autograd/op.h"
#include "tessera/autograd/ops/comparison.h"
#include "tessera/autograd/registry.h"
#include "tessera/core/kernels/copy.h"

namespace tessera {
namespace {

// Inputs: query, key, value, the score's tables.
struct DenseAttention {
  static constexpr std::string_view name = "dense_attention";
  AttentionOptions options;

  TensorList forward(Forward& f, const TensorList& in) const {
    const AttentionResult r = compute(in);
    f.save_output(r.output, 0);
    f.save_output(r.logsumexp, 1);
    return {r.output, r.logsumexp};
  }

  TensorList definition(const TensorList& in) const {
    const AttentionResult r = dense_attention_reference(in[0], in[1], in[2], options_with(in));
    return {r.output, r.logsumexp};
  }

  void backward(Backward& b) const {
    const Tensor grad_lse = b.has_grad(1) ? kernels::contiguous(b.grad(1)) : Tensor();
    const TensorList in = b.input_list();
    const AttentionResult forward{b.saved(0), b.saved(1)};
    if constexpr (kCuda) {
      if (is_fast(in)) {
        const DenseGradients g =
            has_window()
                ? sparse_backward_cuda(in[0], in[1], in[2], forward, b.grad(0), grad_lse, options,
                                       nullptr)
                : dense_backward_cuda(in[0], in[1], in[2], forward, b.grad(0), grad_lse, options);
        b.add(0, g.query);
        b.add(1, g.key);
        b.add(2, g.value);
        return;
      }
    }
    TensorList keep;
    const AttentionGradients g = attend_tiles_backward(tiled(in, keep), forward, b.grad(0),
                                                       grad_lse, engine::wants_tables(b));
    b.add(0, g.query);
    b.add(1, g.key);
    b.add(2, g.value);
    for (size_t k = 0; k < g.tables.size(); ++k) b.add(static_cast<int>(3 + k), g.tables[k]);
  }

 private:
  bool has_window() const { return options.left >= 0 || options.right >= 0; }

  AttentionOptions options_with(const TensorList& in) const {
    AttentionOptions o = options;
    if (!o.score.is_identity()) o.score = o.score.with({in.begin() + 3, in.end()});
    return o;
  }

  bool is_fast(const TensorList& in) const {
    return in[0].device().is_cuda() && has_sparse_tiles(in[0], in[2], options, nullptr);
  }

  TiledAttention tiled(const TensorList& in, TensorList& keep) const {
    const AttentionOptions o = options_with(in);
    const EntryRule rule(name, o, in[0].shape(), in[1].shape(), in[0].device(), keep);
    return {in[0], in[1], in[2], o.scale, rule, o.score, dense_tiling(rule)};
  }

  AttentionResult compute(const TensorList& in) const {
    if constexpr (kCuda) {
      if (is_fast(in)) {
        const AttentionOptions& o = options;
        count_score_entries(
            in[0].size(0) * in[0].size(1) *
            engine::window_entries(in[0].size(2), in[1].size(2), o.left, o.causal ? 0 : o.right));
        return has_window() ? sparse_forward_cuda(in[0], in[1], in[2], options, nullptr)
                            : dense_forward_cuda(in[0], in[1], in[2], options);
      }
    }
    TensorList keep;
    return attend_tiles(tiled(in, keep));
  }
};

using Change = std::function<AttentionOptions(const TensorList& extra)>;

// A sample whose options are made from the inputs after query, key and value.
OpSample sample(const char* label, const Shape& q, const Shape& k, const Change& options,
                const TensorList& extra = {}) {
  TensorList inputs{samples::strided(samples::normal(q)), samples::normal(k, 1),
                    samples::normal(k, 2)};
  inputs.insert(inputs.end(), extra.begin(), extra.end());
  auto with = [options](auto attention) {
    return [options, attention](const TensorList& in) {
      const AttentionResult r = attention(in[0], in[1], in[2], options({in.begin() + 3, in.end()}));
      // −inf has no numerical derivative.
      return TensorList{r.output, masked_fill(r.logsumexp, eq(r.logsumexp, -INFINITY), 0)};
    };
  };
  return {label, inputs, with(dense_attention), with(dense_attention_reference)};
}

OpSample fixed(const char* label, const Shape& q, const Shape& k, const AttentionOptions& options) {
  return sample(label, q, k, [options](const TensorList&) { return options; });
}

Tensor ids(const Shape& shape, int64_t low, int64_t high, uint64_t salt = 0) {
  return samples::integers(shape, low, high, salt).to(DType::i32);
}

std::vector<OpSample> all_samples() {
  using List = const TensorList&;
  return {
      fixed("all keys", {2, 2, 3, 4}, {2, 2, 5, 4}, {}),
      fixed("causal", {1, 2, 4, 3}, {1, 2, 4, 3}, {.causal = true}),
      fixed("causal after a cache", {1, 1, 2, 3}, {1, 1, 5, 3}, {.causal = true}),
      fixed("grouped heads", {1, 4, 3, 2}, {1, 2, 3, 2}, {.causal = true}),
      fixed("one key", {1, 1, 3, 2}, {1, 1, 1, 2}, {.scale = 0.3}),
      fixed("no queries", {1, 1, 0, 2}, {1, 1, 2, 2}, AttentionOptions{}),
      fixed("window", {1, 2, 7, 3}, {1, 2, 7, 3}, {.left = 2, .right = 1}),
      fixed("queries that see nothing", {1, 1, 5, 3}, {1, 1, 2, 3}, {.causal = true}),
      sample("lengths", {3, 2, 4, 3}, {3, 1, 5, 3},
             [](List x) { return AttentionOptions{.key_lengths = x[0]}; }, {ids({3}, 0, 6)}),
      sample("segments", {2, 2, 6, 3}, {2, 2, 6, 3},
             [](List x) {
               return AttentionOptions{
                   .causal = true, .query_segments = x[0], .key_segments = x[0]};
             },
             {ids({2, 1, 6}, 0, 2)}),
      sample("positions", {1, 2, 5, 3}, {1, 2, 6, 3},
             [](List x) {
               return AttentionOptions{
                   .causal = true, .left = 6, .query_positions = x[0], .key_positions = x[1]};
             },
             {ids({1, 2, 5}, 0, 10), ids({1, 1, 6}, 0, 10, 1)}),
      sample("ranges", {2, 2, 5, 3}, {2, 2, 6, 3},
             [](List x) { return AttentionOptions{.key_begin = x[0], .key_end = x[1]}; },
             {ids({2, 1, 5}, 0, 4), ids({1, 2, 5}, 3, 7, 1)}),
      fixed("softcap", {1, 2, 4, 3}, {1, 2, 4, 3}, {.causal = true, .score = softcap(0.7)}),
      fixed("self score", {1, 2, 4, 3}, {1, 2, 4, 3}, {.causal = true, .score = self_score(-3)}),
      sample("alibi", {1, 2, 4, 3}, {1, 2, 5, 3},
             [](List x) { return AttentionOptions{.causal = true, .score = alibi(x[0])}; },
             {samples::positive({2})}),
      sample("offset bias", {2, 4, 5, 3}, {2, 2, 5, 3},
             [](List x) { return AttentionOptions{.score = offset_bias(x[0], 2)}; },
             {samples::normal({4, 4}, 3)}),
      sample("clamped bias", {1, 2, 5, 3}, {1, 2, 5, 3},
             [](List x) { return AttentionOptions{.score = clamped_bias(x[0], 1)}; },
             {samples::normal({2, 3}, 3)}),
      sample("relu squared with a bias", {1, 1, 5, 3}, {1, 1, 5, 3},
             [](List x) { return AttentionOptions{.score = relu_squared(x[0], 1)}; },
             {samples::normal({1, 3}, 3)}),
      sample("distance bias", {1, 2, 5, 3}, {1, 2, 5, 3},
             [](List x) { return AttentionOptions{.score = distance_bias(x[0])}; },
             {samples::normal({1, 3}, 3)}),
      sample("bias", {2, 2, 3, 3}, {2, 2, 4, 3},
             [](List x) { return AttentionOptions{.causal = true, .score = bias(x[0])}; },
             {samples::normal({1, 2, 3, 4}, 3)}),
      sample("bias of keys", {2, 2, 3, 3}, {2, 2, 4, 3},
             [](List x) { return AttentionOptions{.score = bias(x[0])}; },
             {samples::normal({2, 1, 1, 4}, 3)}),
      fixed("relu squared", {1, 2, 4, 3}, {1, 2, 4, 3}, {.score = relu_squared()}),
  };
}

const RegisterOp row{{
    .name = "dense_attention",
    .formula = "O = softmax(f(scale Q Kᵀ)) V, L = logsumexp(f(scale Q Kᵀ))",
    .source = "Vaswani et al. 2017; Dao et al. 2022",
    .samples = all_samples,
    .wrong_calls = {[] {
                      dense_attention(samples::normal({1, 3, 2, 4}), samples::normal({1, 2, 2, 4}),
                                      samples::normal({1, 2, 2, 4}));
                    },
                    [] {
                      dense_attention(samples::normal({1, 2, 2, 4}), samples::normal({1, 2, 2, 5}),
                                      samples::normal({1, 2, 2, 5}));
                    },
                    [] {
                      const Tensor x = samples::normal({1, 2, 2, 4});
                      dense_attention(x, x, x, {.key_lengths = ids({2}, 0, 2)});
                    },
                    [] {
                      const Tensor x = samples::normal({1, 2, 2, 4});
                      dense_attention(x, x, x, {.query_segments = ids({1, 1, 2}, 0, 2)});
                    }},
}};

}  // namespace

AttentionResult dense_attention(const Tensor& query, const Tensor& key, const Tensor& value,
                                const AttentionOptions& options) {
  engine::check_inputs("dense_attention", query, key, value);
  AttentionOptions resolved = options;
  resolved.scale = engine::scale_of(options, query);
  TensorList inputs{query, key, value};
  for (const Tensor& x :
       engine::score_tables("dense_attention", options.score, query, key.size(2))) {
    inputs.push_back(x);
  }
  TensorList out = apply_list(DenseAttention{resolved}, inputs);
  return {out[0], out[1]};
}

}  // namespace tessera
