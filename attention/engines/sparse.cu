#include <bit>

#include "tessera/attention/engines/block_mask_cuda.h"
#include "tessera/attention/engines/sparse_cuda.h"
#include "tessera/attention/engines/sparse_tiles.h"
#include "tessera/core/create.h"

namespace tessera {
namespace {

using namespace dense;

bool fits(int64_t block) {
  return block >= 64 && std::has_single_bit(static_cast<uint64_t>(block)) && block < 1 << 30;
}

int log2_of(int64_t block) {
  return std::countr_zero(static_cast<uint64_t>(block));
}

int bound(int64_t n) {
  return n < 0 || n >= SparseTiles::kFar ? INT_MAX : static_cast<int>(n);
}

// What queries meet, and what keys meet.
struct Meetings {
  SparseTiles keys, queries;

  Meetings(const AttentionOptions& o, const BlockMask* mask) {
    keys.left = bound(o.left);
    keys.right = o.causal ? 0 : bound(o.right);
    queries = keys;
    if (mask == nullptr) return;
    // A window nearer than the mask's own hides entries of its full blocks too.
    const bool nearer =
        keys.left != bound(mask->grid.left) || keys.right != bound(mask->grid.right);
    keys.lists = mask->keys_of.rows(nearer);
    queries.lists = mask->queries_of.rows(nearer);
    keys.own_block = queries.other_block = log2_of(mask->grid.block_q);
    keys.other_block = queries.own_block = log2_of(mask->grid.block_k);
  }
};

void count_entries(const BlockMask& mask, const Sizes& s, const SparseTiles& keys) {
  BlockGrid g = mask.grid;
  g.left = keys.left == INT_MAX ? -1 : keys.left;
  g.right = keys.right == INT_MAX ? -1 : keys.right;
  const int64_t alike = mask.map.size(0) * mask.map.size(1);  // heads of the mask
  count_blocks_cuda(mask.map, BlockBounds(g),
                    int64_t{s.batch} * s.heads / std::max<int64_t>(1, alike));
}

}  // namespace

bool has_sparse_tiles(const Tensor& query, const Tensor& value, const AttentionOptions& o,
                      const BlockMask* mask) {
  for (const Tensor* x : {&o.key_lengths, &o.query_positions, &o.key_positions, &o.query_segments,
                          &o.key_segments, &o.key_begin, &o.key_end}) {
    if (x->defined()) return false;
  }
  return is_half(query.dtype()) && query.size(3) <= 256 && value.size(3) <= 256 && o.scale > 0 &&
         o.score.is_identity() &&
         (mask == nullptr || (fits(mask->grid.block_q) && fits(mask->grid.block_k)));
}

AttentionResult sparse_forward_cuda(const Tensor& query, const Tensor& key, const Tensor& value,
                                    const AttentionOptions& options, const BlockMask* mask) {
  const Tensor q = in_chunks(query), k = in_chunks(key), v = in_chunks(value);
  const Sizes s = sizes_of(q, k, v, options);
  const Tensor out =
      engine::empty_heads({s.batch, s.heads, s.queries, s.value_width}, q.dtype(), q.device());
  const Tensor lse = empty({s.batch, s.heads, s.queries}, {DType::f32, q.device()});
  const SparseTiles keys = Meetings(options, mask).keys;
  if (mask != nullptr) count_entries(*mask, s, keys);
  (sparse_fits_hopper(s, keys, {q, k, v}) ? forward_sparse_hopper : forward_sparse)(s, keys, q, k,
                                                                                    v, out, lse);
  return {first_columns(out, value.size(3)), lse};
}

DenseGradients sparse_backward_cuda(const Tensor& query, const Tensor& key, const Tensor& value,
                                    const AttentionResult& forward, const Tensor& grad_output,
                                    const Tensor& grad_logsumexp, const AttentionOptions& options,
                                    const BlockMask* mask) {
  const Tensor q = in_chunks(query), k = in_chunks(key), v = in_chunks(value);
  const Tensor out = in_chunks(forward.output), grad_out = in_chunks(grad_output);
  const Sizes s = sizes_of(q, k, v, options);
  const DenseGradients g = empty_gradients(q, k, v);
  const Meetings meet(options, mask);
  const bool hopper = sparse_fits_hopper(s, meet.keys, {q, k, v, grad_out});
  (hopper ? backward_sparse_hopper : backward_sparse)(
      s, meet.keys, meet.queries, q, k, v, out, forward.logsumexp, grad_out, grad_logsumexp, g);
  return {first_columns(g.query, query.size(3)), first_columns(g.key, key.size(3)),
          first_columns(g.value, value.size(3))};
}

}  // namespace tessera
