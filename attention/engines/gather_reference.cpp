// The gather engine's specification from plain ops: the rows of all lists, and softmax attention
// between them.
#include "tessera/attention/engines/dense.h"
#include "tessera/attention/engines/entry_rule.h"
#include "tessera/attention/engines/gather_slots.h"
#include "tessera/autograd/op.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/comparison.h"
#include "tessera/autograd/ops/einsum.h"
#include "tessera/autograd/ops/elementwise.h"
#include "tessera/autograd/ops/indexing.h"
#include "tessera/autograd/ops/matmul.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/tape.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"

#include <cmath>

namespace tessera {
namespace {

Tensor count(int64_t n, Device device) {
  return arange(0, static_cast<double>(n), 1, {DType::i64, device});
}

// Indices of flat rows: `lists` (B|1, H|1, G, W) into (B, H, rows), −1 becoming `nobody`.
Tensor flat_ids(const Tensor& lists, int64_t batch, int64_t heads, int64_t rows, int64_t nobody) {
  const Tensor head = reshape(count(batch * heads, lists.device()), {batch, heads, 1, 1});
  const Tensor own = masked_fill(lists.to(DType::i64), lt(lists, 0), static_cast<double>(nobody));
  return reshape(own + head * static_cast<double>(rows), {-1});
}

// (B, H, N, …) at lists (B|1, H|1, G, W): (B, H, G, W, …); anything for −1.
Tensor at_lists(const Tensor& x, const Tensor& lists) {
  const int64_t batch = x.size(0), heads = x.size(1), rows = x.size(2);
  Shape shape{batch, heads, lists.size(2), lists.size(3)}, flat{batch * heads * rows};
  for (int64_t d = 3; d < x.rank(); ++d) {
    shape.push_back(x.size(d));
    flat.push_back(x.size(d));
  }
  if (rows == 0) return zeros(shape, {x.dtype(), x.device()});
  return reshape(index_select(reshape(x, flat), 0, flat_ids(lists, batch, heads, rows, 0)), shape);
}

struct Groups {
  Tensor queries, keys;  // lists (B|1, H|1, G, Wq), (B|1, H|1, G, Wk)
  int64_t batch, heads, n, m;

  // An option (B|1, H|1, n) at the lists, as columns or rows of the scores.
  Tensor of_queries(const Tensor& x) const { return unsqueeze(spread(x, n, queries), -1); }
  Tensor of_keys(const Tensor& x) const { return unsqueeze(spread(x, m, keys), -2); }

 private:
  Tensor spread(const Tensor& x, int64_t size, const Tensor& lists) const {
    return at_lists(reshape(expand(x.to(DType::i64), {batch, heads, size}), {batch, heads, size}),
                    lists);
  }
};

// Bool, broadcastable to scores (B, H, G, Wq, Wk).
Tensor hidden_entries(const AttentionOptions& o, const Groups& g) {
  const Tensor i = unsqueeze(g.queries.to(DType::i64), -1);
  const Tensor j = unsqueeze(g.keys.to(DType::i64), -2);
  Tensor hidden = logical_or(lt(i, 0), lt(j, 0));
  auto hide = [&](const Tensor& more) { hidden = logical_or(hidden, more); };
  const Tensor at = o.query_positions.defined() ? g.of_queries(o.query_positions)
                                                : i + static_cast<double>(g.m - g.n);
  const Tensor ahead = (o.key_positions.defined() ? g.of_keys(o.key_positions) : j) - at;
  const int64_t right = o.causal ? 0 : o.right;
  if (right >= 0) hide(gt(ahead, static_cast<double>(right)));
  if (o.left >= 0) hide(lt(ahead, static_cast<double>(-o.left)));
  if (o.key_lengths.defined()) {
    hide(ge(j, reshape(o.key_lengths.to(DType::i64), {-1, 1, 1, 1, 1})));
  }
  if (o.query_segments.defined()) {
    hide(ne(g.of_queries(o.query_segments), g.of_keys(o.key_segments)));
  }
  if (o.key_begin.defined()) hide(lt(j, g.of_queries(o.key_begin)));
  if (o.key_end.defined()) hide(ge(j, g.of_queries(o.key_end)));
  return hidden;
}

// The score functor over scores (B, H, G, Wq, Wk).
Tensor scored(const AttentionOptions& options, const Groups& g, const Tensor& scores) {
  if (options.score.is_identity()) return scores;
  AttentionOptions o = options;
  for (Tensor* x : {&o.key_lengths, &o.query_positions, &o.key_positions, &o.query_segments,
                    &o.key_segments, &o.key_begin, &o.key_end}) {
    if (x->defined()) *x = kernels::to_device(*x, {});
  }
  TensorList keep;
  const EntryRule rule("score", o, {g.batch, g.heads, g.n, 1}, {g.batch, 1, g.m, 1}, {}, keep);
  const Tensor query_lists = kernels::to_device(g.queries, {});
  const Tensor key_lists = kernels::to_device(g.keys, {});
  const lists::Lists queries(query_lists), keys(key_lists);
  auto place = [&](int64_t b, int64_t h, int64_t s, int64_t j) {
    const int i = std::max(0, queries.head(b, h)[s]);
    const int key = std::max(0, keys.head(b, h)[s / queries.width * keys.width + j]);
    return rule.place(static_cast<int>(b), static_cast<int>(h), i, key);
  };
  const ScoreKernels& kernels = options.score.kernels();
  const Tensor rows = flatten(scores, 2, 3);
  return reshape(kernels.definition(kernels.functor, rows, options.score.tables(), place),
                 scores.shape());
}

}  // namespace

AttentionResult grouped_gather_attention_reference(const Tensor& query, const Tensor& key,
                                                   const Tensor& value, const Tensor& query_lists,
                                                   const Tensor& key_lists,
                                                   const AttentionOptions& options) {
  const Groups g{query_lists, key_lists, query.size(0), query.size(1), query.size(2), key.size(2)};
  const Tensor q = at_lists(query, query_lists);
  const Tensor k = at_lists(repeat_heads(key, g.heads), key_lists);
  const Tensor v = at_lists(repeat_heads(value, g.heads), key_lists);
  const Tensor products = matmul(q, transpose(k, -1, -2)) * engine::scale_of(options, query);
  return attention_of_scores(scored(options, g, products), hidden_entries(options, g), v);
}

AttentionResult gather_attention_reference(const Tensor& query, const Tensor& key,
                                           const Tensor& value, const Tensor& lists,
                                           const AttentionOptions& options) {
  const Tensor own = reshape(count(query.size(2), query.device()), {1, 1, -1, 1}).to(DType::i32);
  const AttentionResult r =
      grouped_gather_attention_reference(query, key, value, own, lists, options);
  return {squeeze(r.output, 3), squeeze(r.logsumexp, 3)};
}

AttentionResult combine_slots_reference(const AttentionResult& slots, const Tensor& query_lists,
                                        int64_t queries, Combine how) {
  const int64_t batch = slots.output.size(0), heads = slots.output.size(1);
  const int64_t width = slots.output.size(4);
  // One row more per head takes what nobody wants.
  const Tensor ids = flat_ids(query_lists, batch, heads, queries + 1, queries);
  const int64_t rows = batch * heads * (queries + 1);
  auto sum_of = [&](const Tensor& x) {
    Shape shape{rows};
    if (x.rank() > 1) shape.push_back(x.size(1));
    return index_add(zeros(shape, {x.dtype(), x.device()}), 0, ids, x);
  };
  auto at_queries = [&](const Tensor& x) {
    Shape shape{batch, heads, queries + 1};
    if (x.rank() > 1) shape.push_back(x.size(1));
    return slice(reshape(x, shape), 2, 0, queries);
  };
  const DType wide = is_half(slots.output.dtype()) ? DType::f32 : slots.output.dtype();
  const Tensor lse = reshape(slots.logsumexp.to(wide), {-1});
  const Tensor out = reshape(slots.output, {-1, width});
  // Any shift gives the same logsumexp; the right one keeps the exponentials small.
  Tensor shift;
  {
    NoGrad off;
    const Tensor all = combine_slots({slots.output.detach(), slots.logsumexp.detach()}, query_lists,
                                     queries, Combine::sum)
                           .logsumexp;
    const Tensor finite = masked_fill(all, eq(all, -INFINITY), 0);
    const Tensor spare = zeros({batch, heads, 1}, {all.dtype(), all.device()});
    shift = reshape(concat({finite, spare}, 2), {-1});
  }
  const Tensor weights = exp(lse - index_select(shift, 0, ids));
  const Tensor total = sum_of(weights);
  const Tensor none = eq(total, 0);
  const Tensor safe = masked_fill(total, none, 1);
  const Tensor combined = masked_fill(log(safe) + shift, none, -INFINITY);
  auto weighted = [&](const Tensor& w) {
    return sum_of((out.to(w.dtype()) * unsqueeze(w, -1)).to(out.dtype()));
  };
  Tensor sum;
  if (how == Combine::sum) {
    sum = sum_of(out);
  } else if (how == Combine::mean) {
    const Tensor counts = sum_of(ones(lse.shape(), {lse.dtype(), lse.device()}));
    sum = weighted(1 / index_select(counts, 0, ids));
  } else {
    sum = weighted(weights / index_select(safe, 0, ids));
  }
  return {at_queries(sum), at_queries(combined)};
}

}  // namespace tessera
