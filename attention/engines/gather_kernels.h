// What the files of the gather engine on CUDA share.
#pragma once

#include "tessera/attention/engines/dense_kernels.h"
#include "tessera/attention/engines/engine_cuda.h"
#include "tessera/attention/engines/entry_rule.h"
#include "tessera/attention/engines/gather_cuda.h"
#include "tessera/attention/engines/gather_slots.h"
#include "tessera/core/cuda/kernel.h"
#include "tessera/core/cuda/runtime.h"
#include "tessera/core/view.h"

namespace tessera::lists {

// For every row that lists (B|1, H|1, G, W) may name: the places in the head's lists at which it
// stands, in order.
struct Inverse {
  const int32_t* first = nullptr;  // (B|1, H|1, rows + 1)
  const uint32_t* places = nullptr;
  int rows = 0;

  __device__ IndexRange of(int64_t head, int row) const {
    const int32_t* at = first + head * (rows + 1) + row;
    return {at[0], at[1]};
  }
};
// Sorted on the device; `keep` holds its memory.
Inverse invert(const Tensor& lists, int64_t rows, TensorList& keep);

// x, or a copy with zeros at the end of every row: rows in aligned pieces of 16 bytes.
Tensor in_pieces(const Tensor& x);

// (B, H, S, D) in memory as (B, S, H, D), rows in pieces of 16 bytes.
Tensor empty_pieces(const Shape& shape, DType dtype, Device device);
inline Tensor first_columns(const Tensor& x, int64_t width) {
  return x.size(3) == width ? x : views::slice(x, 3, 0, width);
}

// Sizes and inputs as all kernels of the engine take them.
template <class T>
struct Problem {
  EntryRule rule;
  dense::Heads<const T> q, k, v;
  Lists queries, keys;  // queries not set: one list per query
  int batch = 0, heads = 0, group = 1;
  int slots = 0, slot_width = 1;  // slot_width: of a group
  int width = 0, value_width = 0;
  double scale = 1;
  unsigned long long* entries = nullptr;  // the count of score entries

  __device__ int query_of(int b, int h, int slot) const {
    if (!queries.is_set()) return slot;
    return checked(queries.head(b, h)[slot], rule.queries);
  }
  static __device__ int checked(int id, int size) {
    return id < 0 && id == -1 ? -1
                              : static_cast<int>(cuda::checked_index("gather_attention", id, size));
  }
};

// Adds what the lanes of a warp have counted.
template <class T>
__device__ void count_entries(const Problem<T>& p, int count) {
  count = cuda::warp_reduce(count, cuda::Sum());
  if (threadIdx.x % cuda::kWarp == 0 && count > 0) {
    atomicAdd(p.entries, static_cast<unsigned long long>(count));
  }
}

template <class T>
Problem<T> problem_of(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& query_lists,
                      const Tensor& key_lists, const AttentionOptions& options, TensorList& keep) {
  for (const Tensor* x : {&q, &k, &v}) {
    for (int64_t size : x->shape()) {
      check(size < int64_t{1} << 30, "gather_attention: {} is too long in one dimension",
            x->shape());
    }
  }
  auto narrow = [](int64_t n) { return static_cast<int>(n); };
  Problem<T> p;
  p.rule = EntryRule("gather_attention", options, q.shape(), k.shape(), q.device(), keep);
  p.q = dense::Heads<const T>(q);
  p.k = dense::Heads<const T>(k);
  p.v = dense::Heads<const T>(v);
  if (query_lists.defined()) p.queries = Lists(query_lists);
  p.keys = Lists(key_lists);
  p.batch = narrow(q.size(0));
  p.heads = narrow(q.size(1));
  p.group = narrow(q.size(1) / k.size(1));
  p.slot_width = p.queries.is_set() ? p.queries.width : 1;
  p.slots = p.keys.groups * p.slot_width;
  p.width = narrow(q.size(3));
  p.value_width = narrow(v.size(3));
  p.scale = options.scale;
  p.entries = engine::entry_counter(q.device());
  return p;
}

// Whether all queries may see all keys.
inline bool hides_nothing(const AttentionOptions& o) {
  return !o.causal && o.left < 0 && o.right < 0 && !o.key_lengths.defined() &&
         !o.query_segments.defined() && !o.key_begin.defined() && !o.key_end.defined();
}

// By pairs, in any dtype. Rows in pieces; results in pieces too. `delta` (B, H, S) is written by
// the first and read by the second.
void attend_pairs(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& query_lists,
                  const Tensor& key_lists, const AttentionOptions& options,
                  const AttentionResult& to);
void backward_pairs(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& query_lists,
                    const Tensor& key_lists, const AttentionOptions& options,
                    const AttentionResult& forward, const Tensor& grad_out, const Tensor& grad_lse,
                    const Gradients& to);

// With a score functor, in f32 or f64; tables of its gradients are returned.
void attend_scored(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& query_lists,
                   const Tensor& key_lists, const AttentionOptions& options,
                   const AttentionResult& to);
TensorList backward_scored(const Tensor& q, const Tensor& k, const Tensor& v,
                           const Tensor& query_lists, const Tensor& key_lists,
                           const AttentionOptions& options, const Tensor& grad_out,
                           const Tensor& grad_lse, const Gradients& to);

}  // namespace tessera::lists
