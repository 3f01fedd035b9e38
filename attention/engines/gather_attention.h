// The gather engine: softmax attention over lists of keys. Lists hold indices of rows, i32; −1 is
// nobody, and a key that is listed twice counts twice (unless unique_lists made the lists).
#pragma once

#include "tessera/attention/engines/engine.h"

namespace tessera {

// Query i attends to the keys lists[b, h, i, :], lists (B|1, H|1, N, K), for query (B, H, N, D),
// key (B, Hk, M, D) and value (B, Hk, M, Dv) as in dense attention; what `options` hides is hidden
// here too, by the indices and positions that queries and keys have outside of the lists. Throws
// for an index that is not in [−1, M) (on CUDA the kernel stops the program). f32 and f64, on CUDA
// the halves too. Differentiable in query, key, value and the tables of the score: once by its
// kernels, twice through its reference. dK and dV are added up by inverse lists, in their order.
AttentionResult gather_attention(const Tensor& query, const Tensor& key, const Tensor& value,
                                 const Tensor& lists, const AttentionOptions& options = {});

// Groups: the queries query_lists[b, h, g, :] attend to the keys key_lists[b, h, g, :], lists
// (B|1, H|1, G, Wq) and (B|1, H|1, G, Wk). A query may be in several groups, or in none; each place
// in a query list, a slot, has a result of its own: output (B, H, G, Wq, Dv), logsumexp (B, H, G,
// Wq), 0 and −inf where nobody is. Otherwise as above.
AttentionResult grouped_gather_attention(const Tensor& query, const Tensor& key,
                                         const Tensor& value, const Tensor& query_lists,
                                         const Tensor& key_lists,
                                         const AttentionOptions& options = {});

// How the slots of a query become one result:
//   sum    O = Σ_s O_s
//   mean   O = Σ_s O_s / number of slots
//   merge  O = Σ_s exp(L_s − L) O_s: one softmax over the keys of all its slots
// with L = log Σ_s exp(L_s) in all three.
enum class Combine { sum, mean, merge };

// (B, H, G, Wq, Dv) and (B, H, G, Wq) → output (B, H, N, Dv) and logsumexp (B, H, N) for N =
// `queries`; 0 and −inf for a query without slots. Slots are added in their order. Differentiable
// twice, once by its kernels. Logsumexps are taken in the dtype of the outputs, f32 for halves.
AttentionResult combine_slots(const AttentionResult& slots, const Tensor& query_lists,
                              int64_t queries, Combine how);

// Both at once.
AttentionResult grouped_gather_attention(const Tensor& query, const Tensor& key,
                                         const Tensor& value, const Tensor& query_lists,
                                         const Tensor& key_lists, Combine how,
                                         const AttentionOptions& options = {});

// Lists in which no index stands twice, in ascending order behind as many −1, so that duplicates
// count once: (…, K) → (…, K).
Tensor unique_lists(const Tensor& lists);

// The same functions composed of plain ops: scores of every list at once, any order of derivative.
AttentionResult gather_attention_reference(const Tensor& query, const Tensor& key,
                                           const Tensor& value, const Tensor& lists,
                                           const AttentionOptions& options = {});
AttentionResult grouped_gather_attention_reference(const Tensor& query, const Tensor& key,
                                                   const Tensor& value, const Tensor& query_lists,
                                                   const Tensor& key_lists,
                                                   const AttentionOptions& options = {});
AttentionResult combine_slots_reference(const AttentionResult& slots, const Tensor& query_lists,
                                        int64_t queries, Combine how);

}  // namespace tessera
