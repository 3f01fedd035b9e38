#include "tessera/attention/engines/dense.h"
#include "tessera/attention/engines/entry_rule.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/comparison.h"
#include "tessera/autograd/ops/matmul.h"
#include "tessera/autograd/ops/reduce.h"
#include "tessera/autograd/ops/softmax.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"

#include <cmath>

namespace tessera {
namespace {

Tensor count(int64_t n, Device device) {
  return arange(0, static_cast<double>(n), 1, {DType::i64, device});
}

// (B|1, H|1, N) as a column (B|1, H|1, N, 1) or a row (B|1, H|1, 1, N) of scores, i64.
Tensor column(const Tensor& x) {
  return unsqueeze(x.to(DType::i64), -1);
}
Tensor row(const Tensor& x) {
  return unsqueeze(x.to(DType::i64), -2);
}

}  // namespace

Tensor repeat_heads(const Tensor& x, int64_t heads) {
  const int64_t group = heads / x.size(1);
  if (group == 1) return x;
  const Tensor wide = expand(unsqueeze(x, 2), {x.size(0), x.size(1), group, x.size(2), x.size(3)});
  return reshape(wide, {x.size(0), heads, x.size(2), x.size(3)});
}

Tensor hidden_entries(const AttentionOptions& o, int64_t queries, int64_t keys, Device device) {
  Tensor hidden;
  auto hide = [&](const Tensor& more) {
    hidden = hidden.defined() ? logical_or(hidden, more) : more;
  };
  const Tensor j = reshape(count(keys, device), {1, 1, 1, keys});
  const Tensor i = reshape(count(queries, device), {1, 1, queries, 1});
  const Tensor at = o.query_positions.defined() ? column(o.query_positions)
                                                : i + static_cast<double>(keys - queries);
  const Tensor ahead = (o.key_positions.defined() ? row(o.key_positions) : j) - at;
  const int64_t right = o.causal ? 0 : o.right;
  if (right >= 0) hide(gt(ahead, static_cast<double>(right)));
  if (o.left >= 0) hide(lt(ahead, static_cast<double>(-o.left)));
  if (o.key_lengths.defined()) {
    hide(ge(j, reshape(o.key_lengths.to(DType::i64), {-1, 1, 1, 1})));
  }
  if (o.query_segments.defined()) hide(ne(column(o.query_segments), row(o.key_segments)));
  if (o.key_begin.defined()) hide(lt(j, column(o.key_begin)));
  if (o.key_end.defined()) hide(ge(j, column(o.key_end)));
  return hidden;
}

Tensor apply_score(const AttentionOptions& options, const Tensor& scores) {
  if (options.score.is_identity()) return scores;
  AttentionOptions o = options;
  for (Tensor* x : {&o.key_lengths, &o.query_positions, &o.key_positions, &o.query_segments,
                    &o.key_segments, &o.key_begin, &o.key_end}) {
    if (x->defined()) *x = kernels::to_device(*x, {});
  }
  TensorList keep;
  const Shape& s = scores.shape();
  const EntryRule rule("score", o, {s[0], s[1], s[2], 1}, {s[0], 1, s[3], 1}, {}, keep);
  auto place = [&](int64_t b, int64_t h, int64_t i, int64_t j) {
    return rule.place(static_cast<int>(b), static_cast<int>(h), static_cast<int>(i),
                      static_cast<int>(j));
  };
  const ScoreKernels& kernels = options.score.kernels();
  return kernels.definition(kernels.functor, scores, options.score.tables(), place);
}

AttentionResult attention_of_scores(const Tensor& scores, const Tensor& hidden,
                                    const Tensor& value) {
  const Tensor s = hidden.defined() ? masked_fill(scores, hidden, -INFINITY) : scores;
  const Tensor lse = logsumexp(s, {-1});
  return {matmul(softmax(s, -1), value), is_half(lse.dtype()) ? lse.to(DType::f32) : lse};
}

AttentionResult dense_attention_reference(const Tensor& query, const Tensor& key,
                                          const Tensor& value, const AttentionOptions& options) {
  const Tensor k = repeat_heads(key, query.size(1));
  const Tensor products = matmul(query, transpose(k, -1, -2)) * engine::scale_of(options, query);
  return attention_of_scores(apply_score(options, products),
                             hidden_entries(options, query.size(2), key.size(2), query.device()),
                             repeat_heads(value, query.size(1)));
}

}  // namespace tessera
