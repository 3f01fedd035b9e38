#include "tessera/attention/engines/gather_kernels.h"
#include "tessera/attention/engines/gather_tiles.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/view.h"

namespace tessera::lists {
namespace {

int64_t slots_of(const Tensor& query, const Tensor& query_lists) {
  return query_lists.defined() ? query_lists.size(2) * query_lists.size(3) : query.size(2);
}

Tensor wide(const Tensor& x) {
  return kernels::cast(x, DType::f32);
}

}  // namespace

AttentionResult attend_cuda(const Tensor& query, const Tensor& key, const Tensor& value,
                            const Tensor& query_lists, const Tensor& key_lists,
                            const AttentionOptions& options) {
  const bool scored = !options.score.is_identity();
  if (scored && is_half(query.dtype())) {
    const AttentionResult r =
        attend_cuda(wide(query), wide(key), wide(value), query_lists, key_lists, options);
    return {kernels::cast(r.output, query.dtype()), r.logsumexp};
  }
  const Tensor q = in_pieces(query), k = in_pieces(key), v = in_pieces(value);
  const Shape rows{q.size(0), q.size(1), slots_of(query, query_lists)};
  const Tensor out = empty_pieces({rows[0], rows[1], rows[2], v.size(3)}, q.dtype(), q.device());
  const Tensor lse = empty(rows, {is_half(q.dtype()) ? DType::f32 : q.dtype(), q.device()});
  const auto attend = scored                                 ? attend_scored
                      : on_tiles(q, v, query_lists, options) ? attend_tiles
                                                             : attend_pairs;
  attend(q, k, v, query_lists, key_lists, options, {out, lse});
  return {first_columns(out, value.size(3)), lse};
}

Gradients attend_backward_cuda(const Tensor& query, const Tensor& key, const Tensor& value,
                               const Tensor& query_lists, const Tensor& key_lists,
                               const AttentionResult& forward, const Tensor& grad_output,
                               const Tensor& grad_logsumexp, const AttentionOptions& options) {
  const bool scored = !options.score.is_identity();
  if (scored && is_half(query.dtype())) {
    Gradients g = attend_backward_cuda(wide(query), wide(key), wide(value), query_lists, key_lists,
                                       {wide(forward.output), forward.logsumexp}, wide(grad_output),
                                       grad_logsumexp, options);
    for (Tensor* x : {&g.query, &g.key, &g.value}) *x = kernels::cast(*x, query.dtype());
    return g;
  }
  const Tensor q = in_pieces(query), k = in_pieces(key), v = in_pieces(value);
  const Tensor out = in_pieces(forward.output), grad_out = in_pieces(grad_output);
  const int64_t slots = slots_of(query, query_lists);
  auto of_slots = [](const Tensor& x, int64_t heads, int64_t count) {
    return empty_pieces({x.size(0), heads, count, x.size(3)}, x.dtype(), x.device());
  };
  Gradients g;
  g.query = of_slots(q, q.size(1), slots);
  if (!scored && on_tiles(q, v, query_lists, options)) {
    const int64_t listed = key_lists.size(2) * key_lists.size(3);
    g.key = of_slots(k, q.size(1), listed);
    g.value = of_slots(v, q.size(1), listed);
    backward_tiles(q, k, v, query_lists, key_lists, options, {out, forward.logsumexp}, grad_out,
                   grad_logsumexp, g);
    const TensorList sums = sum_slots_cuda({g.key, g.value}, key_lists, k.size(2), k.size(1));
    g.key = sums[0];
    g.value = sums[1];
  } else {
    g.key = of_slots(k, k.size(1), k.size(2));
    g.value = of_slots(v, v.size(1), v.size(2));
    if (scored) {
      g.tables =
          backward_scored(q, k, v, query_lists, key_lists, options, grad_out, grad_logsumexp, g);
    } else {
      backward_pairs(q, k, v, query_lists, key_lists, options, {out, forward.logsumexp}, grad_out,
                     grad_logsumexp, g);
    }
  }
  g.query = first_columns(g.query, query.size(3));
  g.key = first_columns(g.key, key.size(3));
  g.value = first_columns(g.value, value.size(3));
  return g;
}

}  // namespace tessera::lists
