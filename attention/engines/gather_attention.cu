#include "tessera/attention/engines/gather_kernels.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/view.h"

namespace tessera::lists {
namespace {

int64_t slots_of(const Tensor& query, const Tensor& query_lists) {
  return query_lists.defined() ? query_lists.size(2) * query_lists.size(3) : query.size(2);
}

Tensor pieces_like(const Tensor& x) {
  return empty_pieces(x.shape(), x.dtype(), x.device());
}

}  // namespace

AttentionResult attend_cuda(const Tensor& query, const Tensor& key, const Tensor& value,
                            const Tensor& query_lists, const Tensor& key_lists,
                            const AttentionOptions& options) {
  const Tensor q = in_pieces(query), k = in_pieces(key), v = in_pieces(value);
  const Shape rows{q.size(0), q.size(1), slots_of(query, query_lists)};
  const Tensor out = empty_pieces({rows[0], rows[1], rows[2], v.size(3)}, q.dtype(), q.device());
  const Tensor lse = empty(rows, {is_half(q.dtype()) ? DType::f32 : q.dtype(), q.device()});
  attend_pairs(q, k, v, query_lists, key_lists, options, {out, lse});
  return {first_columns(out, value.size(3)), lse};
}

Gradients attend_backward_cuda(const Tensor& query, const Tensor& key, const Tensor& value,
                               const Tensor& query_lists, const Tensor& key_lists,
                               const AttentionResult& forward, const Tensor& grad_output,
                               const Tensor& grad_logsumexp, const AttentionOptions& options) {
  const Tensor q = in_pieces(query), k = in_pieces(key), v = in_pieces(value);
  const Tensor out = in_pieces(forward.output), grad_out = in_pieces(grad_output);
  const int64_t slots = slots_of(query, query_lists);
  const Gradients g{empty_pieces({q.size(0), q.size(1), slots, q.size(3)}, q.dtype(), q.device()),
                    pieces_like(k), pieces_like(v)};
  backward_pairs(q, k, v, query_lists, key_lists, options, {out, forward.logsumexp}, grad_out,
                 grad_logsumexp, g);
  return {first_columns(g.query, query.size(3)), first_columns(g.key, key.size(3)),
          first_columns(g.value, value.size(3))};
}

}  // namespace tessera::lists
