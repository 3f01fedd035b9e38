#include "tessera/attention/engines/gather_attention.h"

#include "tessera/attention/engines/gather_cuda.h"
#include "tessera/attention/engines/gather_slots.h"
#include "tessera/attention/engines/neighborhood.h"
#include "tessera/attention/engines/scores.h"
#include "tessera/attention/engines/tiles.h"
#include "tessera/autograd/op.h"
#include "tessera/autograd/ops/comparison.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/registry.h"
#include "tessera/core/kernels/copy.h"

#include <cmath>

namespace tessera {
namespace {

using lists::Lists;

// Group after group, each in tiles of at most kTileQueries slots.
Tiling tiling_of(const Lists& queries, const Lists& keys) {
  const int width = queries.is_set() ? queries.width : 1;
  const auto most = static_cast<int>(kTileQueries);
  const int parts = (width + most - 1) / most;
  auto fill = [=](int64_t b, int64_t h, int64_t t, Tile& tile) {
    const auto group = static_cast<int32_t>(t / parts);
    const int first = static_cast<int>(t % parts) * most;
    tile.queries.clear();
    tile.slots.clear();
    for (int32_t s = group * width + first; s < group * width + std::min(width, first + most);
         ++s) {
      const int32_t query = queries.is_set() ? queries.head(b, h)[s] : s;
      if (query < 0) continue;
      tile.queries.push_back(query);
      tile.slots.push_back(s);
    }
    const int32_t* list = keys.head(b, h) + static_cast<int64_t>(group) * keys.width;
    tile.keys.assign(list, list + keys.width);
  };
  return {static_cast<int64_t>(keys.groups) * parts, fill};
}

// Inputs: query, key, value, the score's tables. Results by slots: (B, H, S, Dv), (B, H, S).
struct GatherAttention {
  std::string_view name;
  AttentionOptions options;
  Tensor query_lists;  // undefined: every query has its own list
  Tensor key_lists;

  TensorList forward(Forward& f, const TensorList& in) const {
    const AttentionResult r = compute(in);
    f.save_output(r.output, 0);
    f.save_output(r.logsumexp, 1);
    return {r.output, r.logsumexp};
  }

  TensorList definition(const TensorList& in) const {
    const AttentionOptions o = options_with(in);
    if (!query_lists.defined()) {
      const AttentionResult r = gather_attention_reference(in[0], in[1], in[2], key_lists, o);
      return {r.output, r.logsumexp};
    }
    const AttentionResult r =
        grouped_gather_attention_reference(in[0], in[1], in[2], query_lists, key_lists, o);
    return {flatten(r.output, 2, 3), flatten(r.logsumexp, 2, 3)};
  }

  void backward(Backward& b) const {
    const Tensor grad_lse = b.has_grad(1) ? kernels::contiguous(b.grad(1)) : Tensor();
    const TensorList in = b.input_list();
    const AttentionResult forward{b.saved(0), b.saved(1)};
    auto add = [&](const Tensor& query, const Tensor& key, const Tensor& value) {
      b.add(0, query_lists.defined() ? lists::sum_slots(query, query_lists, in[0].size(2)) : query);
      b.add(1, key);
      b.add(2, value);
    };
    if constexpr (kCuda) {
      if (in[0].device().is_cuda()) {
        const lists::Gradients g =
            lists::attend_backward_cuda(in[0], in[1], in[2], query_lists, key_lists, forward,
                                        b.grad(0), grad_lse, options_with(in));
        add(g.query, g.key, g.value);
        for (size_t k = 0; k < g.tables.size(); ++k) b.add(static_cast<int>(3 + k), g.tables[k]);
        return;
      }
    }
    TensorList keep;
    const AttentionGradients g = attend_tiles_backward(tiled(in, keep), forward, b.grad(0),
                                                       grad_lse, engine::wants_tables(b));
    add(g.query, g.key, g.value);
    for (size_t k = 0; k < g.tables.size(); ++k) b.add(static_cast<int>(3 + k), g.tables[k]);
  }

 private:
  AttentionOptions options_with(const TensorList& in) const {
    AttentionOptions o = options;
    if (!o.score.is_identity()) o.score = o.score.with({in.begin() + 3, in.end()});
    return o;
  }

  TiledAttention tiled(const TensorList& in, TensorList& keep) const {
    const AttentionOptions o = options_with(in);
    const EntryRule rule(name, o, in[0].shape(), in[1].shape(), in[0].device(), keep);
    const Lists queries = query_lists.defined() ? Lists(query_lists) : Lists(), keys(key_lists);
    return {in[0],
            in[1],
            in[2],
            o.scale,
            rule,
            o.score,
            tiling_of(queries, keys),
            queries.is_set() ? queries.size() : -1};
  }

  AttentionResult compute(const TensorList& in) const {
    if constexpr (kCuda) {
      if (in[0].device().is_cuda()) {
        return lists::attend_cuda(in[0], in[1], in[2], query_lists, key_lists, options_with(in));
      }
    }
    TensorList keep;
    return attend_tiles(tiled(in, keep));
  }
};

// What the kernels on CUDA take; the rest runs by its definition there.
bool has_kernel(const Tensor& query, const Tensor& value, const AttentionOptions& o) {
  if (query.device().is_cpu()) return true;
  return (o.score.is_identity() || o.score.kernels().launch_pairs != nullptr) &&
         query.size(3) <= lists::kWidest && value.size(3) <= lists::kWidest;
}

AttentionResult attend(GatherAttention op, const Tensor& query, const Tensor& key,
                       const Tensor& value) {
  TensorList inputs{query, key, value};
  const AttentionOptions& o = op.options;
  for (const Tensor& x : engine::score_tables(op.name, o.score, query, key.size(2))) {
    inputs.push_back(x);
  }
  const bool fast = has_kernel(query, value, o);
  if (!fast) {  // its checks
    TensorList keep;
    EntryRule(op.name, o, query.shape(), key.shape(), query.device(), keep);
  }
  op.options.scale = engine::scale_of(o, query);
  const TensorList r = fast ? apply_list(op, inputs) : op.definition(inputs);
  return {r[0], r[1]};
}

// ---- Samples

using List = const TensorList&;
using Change = std::function<AttentionOptions(List extra)>;

AttentionOptions nothing(List) {
  return {};
}

Tensor ids(const Shape& shape, int64_t low, int64_t high, uint64_t salt = 0) {
  return samples::integers(shape, low, high, salt).to(DType::i32);
}

TensorList inputs_of(const Shape& q, const Shape& k, const TensorList& more) {
  TensorList inputs{samples::strided(samples::normal(q)), samples::normal(k, 1),
                    samples::normal({k[0], k[1], k[2], k[3] + 1}, 2)};
  inputs.insert(inputs.end(), more.begin(), more.end());
  return inputs;
}

// Differences of infinite values say nothing.
TensorList results(const AttentionResult& r) {
  return {r.output, masked_fill(r.logsumexp, eq(r.logsumexp, -INFINITY), 0)};
}

OpSample sample(const char* label, const Shape& q, const Shape& k, const Tensor& lists,
                const Change& options = nothing, TensorList extra = {}) {
  extra.insert(extra.begin(), lists);
  auto with = [options](auto attention) {
    return [options, attention](List in) {
      return results(attention(in[0], in[1], in[2], in[3], options({in.begin() + 4, in.end()})));
    };
  };
  return {label, inputs_of(q, k, extra), with(gather_attention), with(gather_attention_reference)};
}

OpSample grouped(const char* label, const Shape& q, const Shape& k, const Tensor& query_lists,
                 const Tensor& key_lists, const Change& options = nothing, TensorList extra = {}) {
  extra.insert(extra.begin(), {query_lists, key_lists});
  using Function = AttentionResult (*)(const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                       const Tensor&, const AttentionOptions&);
  auto with = [options](Function attention) {
    return [options, attention](List in) {
      return results(
          attention(in[0], in[1], in[2], in[3], in[4], options({in.begin() + 5, in.end()})));
    };
  };
  return {label, inputs_of(q, k, extra), with(grouped_gather_attention),
          with(grouped_gather_attention_reference)};
}

OpSample combined(const char* label, const Shape& x, const Tensor& query_lists,
                  const Tensor& key_lists, Combine how) {
  return {label, inputs_of(x, x, {query_lists, key_lists}),
          [how](List in) {
            return results(grouped_gather_attention(in[0], in[1], in[2], in[3], in[4], how));
          },
          [how](List in) {
            const AttentionResult r =
                grouped_gather_attention_reference(in[0], in[1], in[2], in[3], in[4]);
            return results(combine_slots_reference(r, in[3], in[0].size(2), how));
          }};
}

std::vector<OpSample> list_samples() {
  auto fixed = [](const AttentionOptions& o) { return [o](List) { return o; }; };
  const auto few =
      from_values(std::vector<int32_t>{0, 3, 3, -1, -1, -1, 2, 4, 2, 1, -1, 0}, {1, 1, 3, 4});
  return {
      sample("shared list with padding and duplicates", {2, 2, 3, 4}, {2, 2, 5, 4}, few),
      sample("lists of heads", {2, 2, 4, 3}, {2, 2, 5, 3}, ids({2, 2, 4, 6}, -1, 5)),
      sample("lists of the batch", {2, 2, 4, 3}, {2, 1, 5, 3}, ids({2, 1, 4, 3}, -1, 5)),
      sample("grouped heads", {1, 4, 3, 2}, {1, 2, 6, 2}, ids({1, 4, 3, 5}, -1, 6)),
      sample("causal", {1, 2, 6, 3}, {1, 2, 6, 3}, ids({1, 2, 6, 5}, -1, 6),
             fixed({.causal = true})),
      sample("nobody in the lists", {1, 2, 2, 3}, {1, 2, 4, 3}, ids({1, 1, 2, 3}, -1, 0)),
      sample("empty lists", {1, 1, 2, 3}, {1, 1, 4, 3}, ids({1, 1, 2, 0}, 0, 1)),
      sample("no queries", {1, 1, 0, 3}, {1, 1, 4, 3}, ids({1, 1, 0, 2}, 0, 1)),
      sample("one column", {1, 2, 3, 1}, {1, 2, 4, 1}, ids({1, 1, 3, 4}, -1, 4)),
      sample("window", {1, 2, 7, 3}, {1, 2, 7, 3}, ids({1, 2, 7, 6}, -1, 7),
             fixed({.left = 2, .right = 1})),
      sample("lengths", {3, 2, 4, 3}, {3, 1, 5, 3}, ids({3, 2, 4, 5}, -1, 5),
             [](List x) { return AttentionOptions{.key_lengths = x[0]}; }, {ids({3}, 0, 6)}),
      sample("positions", {1, 2, 5, 3}, {1, 2, 6, 3}, ids({1, 2, 5, 4}, -1, 6),
             [](List x) {
               return AttentionOptions{
                   .causal = true, .left = 6, .query_positions = x[0], .key_positions = x[1]};
             },
             {ids({1, 2, 5}, 0, 10), ids({1, 1, 6}, 0, 10, 1)}),
      sample("segments", {2, 2, 6, 3}, {2, 2, 6, 3}, ids({2, 2, 6, 5}, -1, 6),
             [](List x) { return AttentionOptions{.query_segments = x[0], .key_segments = x[0]}; },
             {ids({2, 1, 6}, 0, 2)}),
      sample("ranges", {2, 2, 5, 3}, {2, 2, 6, 3}, ids({2, 1, 5, 5}, -1, 6),
             [](List x) { return AttentionOptions{.key_begin = x[0], .key_end = x[1]}; },
             {ids({2, 1, 5}, 0, 4), ids({1, 2, 5}, 3, 7, 1)}),
      sample("softcap", {1, 2, 4, 3}, {1, 2, 4, 3}, ids({1, 2, 4, 4}, -1, 4),
             fixed({.score = softcap(0.7)})),
      sample("offset bias", {2, 4, 5, 3}, {2, 2, 5, 3}, ids({2, 4, 5, 6}, -1, 5),
             [](List x) { return AttentionOptions{.score = offset_bias(x[0], 2)}; },
             {samples::normal({4, 4}, 3)}),
      sample("bias", {2, 2, 3, 3}, {2, 2, 4, 3}, ids({2, 2, 3, 5}, -1, 4),
             [](List x) { return AttentionOptions{.causal = true, .score = bias(x[0])}; },
             {samples::normal({1, 2, 3, 4}, 3)}),
      sample(
          "three tables", {1, 2, 12, 3}, {1, 2, 12, 3}, ids({1, 2, 12, 5}, -1, 12),
          [](List x) {
            const WindowRule grid = neighborhood_windows({.shape = {2, 2, 3}, .window = {2, 2, 3}});
            return AttentionOptions{.score = contextual_bias(x, grid)};
          },
          {samples::normal({1, 2, 12, 3}, 3), samples::normal({1, 1, 12, 3}, 4),
           samples::normal({1, 2, 12, 5}, 5)}),
  };
}

std::vector<OpSample> group_samples() {
  auto fixed = [](const AttentionOptions& o) { return [o](List) { return o; }; };
  // Query 2 is in two groups, and twice in the second; query 4 in none.
  const auto groups = from_values(std::vector<int32_t>{0, 2, 3, 2, 2, 1, -1, -1, 5}, {1, 1, 3, 3});
  const auto keys =
      from_values(std::vector<int32_t>{0, 2, 3, -1, 1, 2, 2, 5, -1, -1, -1, -1}, {1, 1, 3, 4});
  std::vector<OpSample> list{
      grouped("overlapping groups and missing queries", {2, 2, 6, 3}, {2, 2, 6, 3}, groups, keys),
      grouped("lists of heads", {2, 2, 5, 3}, {2, 2, 6, 3}, ids({2, 2, 3, 3}, -1, 5),
              ids({2, 2, 3, 4}, -1, 6, 1)),
      grouped("grouped heads", {1, 4, 5, 3}, {1, 2, 6, 3}, ids({1, 4, 2, 3}, -1, 5),
              ids({1, 1, 2, 4}, -1, 6, 1)),
      grouped("causal", {1, 2, 6, 3}, {1, 2, 6, 3}, ids({1, 2, 3, 4}, -1, 6),
              ids({1, 2, 3, 5}, -1, 6, 1), fixed({.causal = true})),
      grouped("positions and lengths", {2, 2, 5, 3}, {2, 1, 6, 3}, ids({1, 2, 3, 3}, -1, 5),
              ids({2, 1, 3, 4}, -1, 6, 1),
              [](List x) {
                return AttentionOptions{.causal = true,
                                        .key_lengths = x[2],
                                        .query_positions = x[0],
                                        .key_positions = x[1]};
              },
              {ids({1, 2, 5}, 0, 10), ids({1, 1, 6}, 0, 10, 1), ids({2}, 3, 7)}),
      grouped("offset bias", {2, 2, 5, 3}, {2, 2, 5, 3}, ids({2, 1, 2, 3}, -1, 5),
              ids({2, 2, 2, 4}, -1, 5, 1),
              [](List x) { return AttentionOptions{.score = offset_bias(x[0], 2)}; },
              {samples::normal({2, 4}, 3)}),
      grouped("no groups", {1, 1, 3, 2}, {1, 1, 3, 2}, ids({1, 1, 0, 2}, 0, 1),
              ids({1, 1, 0, 3}, 0, 1)),
  };
  for (const Combine how : {Combine::sum, Combine::mean, Combine::merge}) {
    list.push_back(combined("combined", {2, 2, 6, 3}, groups, keys, how));
  }
  return list;
}

Tensor plain(const Shape& shape) {
  return samples::normal(shape);
}

const RegisterOp row{{
    .name = "gather_attention",
    .formula = "O_i = Σ_{j ∈ list_i} softmax_j(f(scale ⟨q_i, k_j⟩)) v_j, L_i its logsumexp",
    .source = "",
    .samples = list_samples,
    .wrong_calls = {
        [] {
          const Tensor x = plain({1, 1, 2, 4});
          gather_attention(x, x, x, from_values(std::vector<int32_t>{0, 2, 1, 1}, {1, 1, 2, 2}));
        },
        [] {
          const Tensor x = plain({1, 1, 2, 4});
          gather_attention(x, x, x, from_values(std::vector<int32_t>{0, -2}, {1, 1, 2, 1}));
        },
        [] {
          const Tensor x = plain({1, 1, 2, 4});
          gather_attention(x, x, x, from_values(std::vector<int32_t>{0, 1, 0}, {1, 1, 3, 1}));
        },
        [] {
          const Tensor x = plain({1, 1, 2, 4});
          gather_attention(x, x, x, from_values(std::vector<int64_t>{0, 1}, {1, 1, 2, 1}));
        },
        [] {
          const Tensor x = plain({1, 1, 2, 4});
          gather_attention(x, plain({1, 1, 2, 3}), x,
                           from_values(std::vector<int32_t>{0, 1}, {1, 1, 2, 1}));
        }},
}};

const RegisterOp group_row{{
    .name = "grouped_gather_attention",
    .formula = "O_i = Σ_{j ∈ keys_g} softmax_j(f(scale ⟨q_i, k_j⟩)) v_j for i ∈ queries_g",
    .source = "Roy et al. 2021, \"Routing Transformer\"",
    .samples = group_samples,
    .wrong_calls = {
        [] {
          const Tensor x = plain({1, 1, 2, 4});
          grouped_gather_attention(x, x, x, from_values(std::vector<int32_t>{0, 2}, {1, 1, 1, 2}),
                                   from_values(std::vector<int32_t>{0, 1}, {1, 1, 1, 2}));
        },
        [] {
          const Tensor x = plain({1, 1, 2, 4});
          grouped_gather_attention(x, x, x, from_values(std::vector<int32_t>{0, 1}, {1, 1, 1, 2}),
                                   from_values(std::vector<int32_t>{0, 1}, {1, 1, 2, 1}));
        }},
}};

}  // namespace

AttentionResult gather_attention(const Tensor& query, const Tensor& key, const Tensor& value,
                                 const Tensor& lists, const AttentionOptions& options) {
  constexpr std::string_view op = "gather_attention";
  engine::check_inputs(op, query, key, value);
  const Tensor dense = lists::checked_lists(op, "lists", lists, query, key.size(2));
  check(dense.size(2) == query.size(2), "{}: {} queries have {} lists", op, query.size(2),
        dense.size(2));
  return attend({op, options, {}, dense}, query, key, value);
}

AttentionResult grouped_gather_attention(const Tensor& query, const Tensor& key,
                                         const Tensor& value, const Tensor& query_lists,
                                         const Tensor& key_lists, const AttentionOptions& options) {
  constexpr std::string_view op = "grouped_gather_attention";
  engine::check_inputs(op, query, key, value);
  const Tensor queries = lists::checked_lists(op, "query_lists", query_lists, query, query.size(2));
  const Tensor keys = lists::checked_lists(op, "key_lists", key_lists, query, key.size(2));
  check(queries.size(2) == keys.size(2), "{}: {} lists of queries, {} of keys", op, queries.size(2),
        keys.size(2));
  const AttentionResult r = attend({op, options, queries, keys}, query, key, value);
  const Shape slots{query.size(0), query.size(1), queries.size(2), queries.size(3)};
  Shape rows = slots;
  rows.push_back(value.size(3));
  return {reshape(r.output, rows), reshape(r.logsumexp, slots)};
}

AttentionResult grouped_gather_attention(const Tensor& query, const Tensor& key,
                                         const Tensor& value, const Tensor& query_lists,
                                         const Tensor& key_lists, Combine how,
                                         const AttentionOptions& options) {
  return combine_slots(grouped_gather_attention(query, key, value, query_lists, key_lists, options),
                       query_lists, query.size(2), how);
}

}  // namespace tessera
