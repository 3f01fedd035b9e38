#include "tessera/attention/engines/neighborhood.h"

#include "tessera/attention/engines/neighborhood_cuda.h"
#include "tessera/attention/engines/tiles.h"
#include "tessera/autograd/op.h"
#include "tessera/autograd/registry.h"
#include "tessera/core/kernels/copy.h"

namespace tessera {
namespace {

constexpr std::string_view kName = "neighborhood_attention";

// Appends the places of a query's window in a box of keys.
void append_runs(const GridBox& window, const GridBox& keys, std::vector<IndexRange>& runs) {
  auto place = [&](int z, int y, int x) {
    return ((z - keys.range[0].begin) * keys.length(1) + y - keys.range[1].begin) * keys.length(2) +
           x - keys.range[2].begin;
  };
  const auto [first, end] = window.range[2];
  for (int z = window.range[0].begin; z < window.range[0].end; ++z) {
    for (int y = window.range[1].begin; y < window.range[1].end; ++y) {
      const IndexRange run{place(z, y, first), place(z, y, end)};
      if (!runs.empty() && runs.back().end == run.begin && window.length(2) == keys.length(2)) {
        runs.back().end = run.end;  // whole rows of the box follow one another
      } else {
        runs.push_back(run);
      }
    }
  }
}

void fill_tile(const WindowRule& rule, const GridBox& queries, Tile& tile) {
  tile.queries.clear();
  tile.keys.clear();
  tile.runs.clear();
  tile.run_begin.assign(1, 0);
  if (queries.is_empty()) return;
  const GridBox keys = rule.keys_of(queries);
  int at[kAxes];
  for (int n = 0; n < keys.count(); ++n) {
    keys.locate(n, at);
    tile.keys.push_back(rule.key_token(keys, at));
  }
  for (int n = 0; n < queries.count(); ++n) {
    queries.locate(n, at);
    tile.queries.push_back(rule.query_token(queries, at));
    std::vector<IndexRange> own;
    append_runs(rule.window_of(tile.queries.back()), keys, own);
    tile.runs.insert(tile.runs.end(), own.begin(), own.end());
    tile.run_begin.push_back(static_cast<int32_t>(tile.runs.size()));
  }
}

Tiling tiling_of(const WindowRule& rule) {
  constexpr int kFew = 16, kKeyCost = 12;  // products of fewer rows are slow; keys must be gathered
  const GridTiles cut = cut_grid(rule, false, kFew, static_cast<int>(kTileQueries), kKeyCost);
  return {cut.count(rule), [rule, cut](int64_t, int64_t, int64_t index, Tile& tile) {
            fill_tile(rule, cut.queries(rule, index), tile);
          }};
}

// Inputs: query, key, value, the score's tables.
struct NeighborhoodAttention {
  static constexpr std::string_view name = kName;
  NeighborhoodOptions options;

  TensorList forward(Forward& f, const TensorList& in) const {
    const AttentionResult r = compute(in);
    f.save_output(r.output, 0);
    f.save_output(r.logsumexp, 1);
    return {r.output, r.logsumexp};
  }

  TensorList definition(const TensorList& in) const {
    const AttentionResult r =
        neighborhood_attention_reference(in[0], in[1], in[2], options_with(in));
    return {r.output, r.logsumexp};
  }

  void backward(Backward& b) const {
    const Tensor grad_lse = b.has_grad(1) ? kernels::contiguous(b.grad(1)) : Tensor();
    const TensorList in = b.input_list();
    const AttentionResult forward{b.saved(0), b.saved(1)};
    const bool learned = engine::wants_tables(b);
    if constexpr (kCuda) {
      if (runs_on_tensor_cores(in, learned)) {
        const NeighborhoodGradients g = neighborhood_backward_cuda(
            in[0], in[1], in[2], forward, b.grad(0), grad_lse, options_with(in), learned);
        b.add(0, g.query);
        b.add(1, g.key);
        b.add(2, g.value);
        if (learned) b.add(3, g.table);
        return;
      }
    }
    const AttentionGradients g =
        attend_tiles_backward(tiled(in), forward, b.grad(0), grad_lse, learned);
    b.add(0, g.query);
    b.add(1, g.key);
    b.add(2, g.value);
    for (size_t k = 0; k < g.tables.size(); ++k) b.add(static_cast<int>(3 + k), g.tables[k]);
  }

 private:
  bool runs_on_tensor_cores(const TensorList& in, bool wants_table) const {
    return in[0].device().is_cuda() &&
           neighborhood_on_tensor_cores(in[0], in[2], options, wants_table);
  }

  AttentionResult compute(const TensorList& in) const {
    if constexpr (kCuda) {
      if (runs_on_tensor_cores(in, false)) {
        return neighborhood_forward_cuda(in[0], in[1], in[2], options_with(in));
      }
    }
    return attend_tiles(tiled(in));
  }

  NeighborhoodOptions options_with(const TensorList& in) const {
    NeighborhoodOptions o = options;
    if (!o.score.is_identity()) o.score = o.score.with({in.begin() + 3, in.end()});
    return o;
  }

  TiledAttention tiled(const TensorList& in) const {
    TensorList keep;
    const EntryRule all(name, {}, in[0].shape(), in[1].shape(), in[0].device(), keep);
    TiledAttention a{in[0], in[1], in[2], options.scale, all, options_with(in).score};
    if (in[0].device().is_cuda()) {
      a.source = tiles_of(options.windows);
    } else {
      a.tiling = tiling_of(options.windows);
    }
    return a;
  }
};

void check_windows(const Tensor& query, const Tensor& key, const NeighborhoodOptions& o) {
  check(query.size(2) == o.windows.queries() && key.size(2) == o.windows.keys(),
        "{}: {} queries and {} keys, where the windows have {} and {}", kName, query.size(2),
        key.size(2), o.windows.queries(), o.windows.keys());
}

// A sample: key tokens, then what the score takes.
using MakeScore = std::function<Score(const TensorList& extra)>;

OpSample sample(const char* label, const WindowRule& windows, const Shape& q, const Shape& k,
                const MakeScore& score = {}, const TensorList& extra = {}) {
  TensorList inputs{samples::strided(samples::normal(q)), samples::normal(k, 1),
                    samples::normal(k, 2)};
  inputs.insert(inputs.end(), extra.begin(), extra.end());
  auto with = [windows, score](auto attention) {
    return [=](const TensorList& in) {
      const Score s = score ? score({in.begin() + 3, in.end()}) : Score();
      const AttentionResult r =
          attention(in[0], in[1], in[2], {.windows = windows, .scale = 0, .score = s});
      return TensorList{r.output, r.logsumexp};
    };
  };
  return {label, inputs, with(neighborhood_attention), with(neighborhood_attention_reference)};
}

OpSample sample(const char* label, const WindowRule& windows) {
  return sample(label, windows, {1, 2, windows.queries(), 3}, {1, 2, windows.keys(), 3});
}

// With a table over the places of two axes.
OpSample biased(const char* label, const WindowRule& windows, const Shape& table) {
  return sample(label, windows, {2, 2, windows.queries(), 2}, {2, 2, windows.keys(), 2},
                [windows](const TensorList& x) { return grid_bias(x[0], windows); },
                {samples::normal(table, 3)});
}

std::vector<OpSample> all_samples() {
  using N = Neighborhood;
  const WindowRule plane = neighborhood_windows(N{.shape = {3, 4}, .window = {3, 2}});
  const WindowRule halo = halo_windows({.shape = {2, 4}, .block = {2, 2}, .halo = {1}});
  return {
      sample("one axis", neighborhood_windows(N{.shape = {7}, .window = {3}})),
      sample("one axis, causal",
             neighborhood_windows(N{.shape = {6}, .window = {3}, .causal = {true}})),
      sample("one axis, dilated and strided",
             neighborhood_windows(N{.shape = {9}, .window = {3}, .dilation = {2}, .stride = {2}})),
      sample("two axes", plane),
      sample("two axes, one causal, one dilated",
             neighborhood_windows(N{
                 .shape = {3, 5}, .window = {2, 2}, .dilation = {1, 2}, .causal = {true, false}})),
      sample("the whole map", neighborhood_windows(N{.shape = {3, 2}, .window = {3, 2}})),
      sample("three axes", neighborhood_windows(N{.shape = {2, 3, 3}, .window = {2, 2, 3}})),
      sample("grouped heads", plane, {1, 4, 12, 2}, {1, 2, 12, 2}),
      sample("one token", neighborhood_windows(N{.shape = {1}, .window = {1}})),
      sample("no batch", plane, {0, 2, 12, 2}, {0, 2, 12, 2}),
      sample("blocks with a halo", halo),
      sample("blocks with a padded halo, every second query",
             halo_windows({.shape = {4}, .block = {2}, .halo = {1}, .padded = true, .every = 2})),
      sample("shifted windows", shifted_windows({4, 5}, {2, 3}, {1})),
      biased("a bias in one dimension", neighborhood_windows(N{.shape = {6}, .window = {3}}),
             {2, 5}),
      biased("a bias in two dimensions, one table for all heads",
             neighborhood_windows(N{.shape = {3, 4}, .window = {3, 3}}), {1, 5, 5}),
      biased("a bias in three dimensions",
             neighborhood_windows(N{.shape = {3, 2, 3}, .window = {3, 1, 3}}), {2, 5, 1, 5}),
      biased("a bias of shifted windows", shifted_windows({3, 4}, {2, 3}, {1, 2}), {2, 3, 5}),
      sample("contextual positions", halo, {2, 2, 8, 2}, {2, 2, 8, 2},
             [halo](const TensorList& x) { return contextual_bias(x, halo); },
             {samples::normal({2, 2, 8, 7}, 3), samples::normal({1, 2, 8, 7}, 4)}),
  };
}

void call(const WindowRule& windows, int64_t queries, int64_t keys, const Score& score = {}) {
  neighborhood_attention(samples::normal({1, 2, queries, 4}), samples::normal({1, 2, keys, 4}),
                         samples::normal({1, 2, keys, 4}), {.windows = windows, .score = score});
}

const RegisterOp row{{
    .name = std::string(kName),
    .formula = "O_i = Σ_{j in window(i)} softmax_j(f(scale ⟨q_i, k_j⟩)) v_j, and the logsumexp",
    .source = "Hassani et al. 2023, 2024; Vaswani et al. 2021; Liu et al. 2021",
    .samples = all_samples,
    .wrong_calls = {[] {
                      call(neighborhood_windows({.shape = {3, 4}, .window = {3}}), 12, 11);
                    },
                    [] {
                      call(neighborhood_windows({.shape = {3, 4}, .window = {3}}), 11, 11);
                    },
                    [] {
                      const WindowRule w = neighborhood_windows({.shape = {4}, .window = {3}});
                      call(w, 4, 4, grid_bias(samples::normal({3, 5}), w));
                    },
                    [] {
                      const WindowRule w = neighborhood_windows({.shape = {4}, .window = {3}});
                      call(w, 4, 4, contextual_bias({samples::normal({3, 1, 4, 5})}, w));
                    }},
}};

}  // namespace

AttentionResult neighborhood_attention(const Tensor& query, const Tensor& key, const Tensor& value,
                                       const NeighborhoodOptions& options) {
  engine::check_inputs(kName, query, key, value);
  check_windows(query, key, options);
  NeighborhoodOptions resolved = options;
  resolved.scale = engine::scale_of({.scale = options.scale}, query);
  TensorList inputs{query, key, value};
  for (const Tensor& x : engine::score_tables(kName, options.score, query, key.size(2))) {
    inputs.push_back(x);
  }
  TensorList out = apply_list(NeighborhoodAttention{resolved}, inputs);
  return {out[0], out[1]};
}

}  // namespace tessera
