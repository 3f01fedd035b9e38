#include "tessera/attention/engines/block_sparse.h"
#include "tessera/attention/engines/dense.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/comparison.h"
#include "tessera/autograd/ops/indexing.h"
#include "tessera/autograd/ops/matmul.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/tape.h"
#include "tessera/core/create.h"

namespace tessera {
namespace {

// The block of each of `tokens`, i64.
Tensor block_numbers(int64_t blocks, int64_t size, int64_t tokens, Device device) {
  const Tensor n = arange(0, static_cast<double>(blocks), 1, {DType::i64, device});
  return slice(reshape(expand(unsqueeze(n, 1), {blocks, size}), {-1}), 0, 0, tokens);
}

}  // namespace

Tensor hidden_entries(const BlockMask& mask) {
  const NoGrad off;
  const BlockGrid& g = mask.grid;
  const Tensor rows = block_numbers(g.query_blocks(), g.block_q, g.queries, g.device);
  const Tensor columns = block_numbers(g.key_blocks(), g.block_k, g.keys, g.device);
  const Tensor hidden = eq(index_select(index_select(mask.map, 2, rows), 3, columns), 0.0);
  const AttentionOptions window{.left = g.left, .right = g.right};
  const Tensor outside = hidden_entries(window, g.queries, g.keys, g.device);
  return outside.defined() ? logical_or(hidden, outside) : hidden;
}

AttentionResult block_sparse_attention_reference(const Tensor& query, const Tensor& key,
                                                 const Tensor& value, const BlockMask& mask,
                                                 const AttentionOptions& options) {
  const Tensor k = repeat_heads(key, query.size(1));
  const Tensor products = matmul(query, transpose(k, -1, -2)) * engine::scale_of(options, query);
  Tensor hidden = hidden_entries(mask);
  const Tensor more = hidden_entries(options, query.size(2), key.size(2), query.device());
  if (more.defined()) hidden = logical_or(hidden, more);
  return attention_of_scores(apply_score(options, products), hidden,
                             repeat_heads(value, query.size(1)));
}

}  // namespace tessera
