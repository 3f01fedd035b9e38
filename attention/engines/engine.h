// What the softmax engines share: options, results, and the count of score entries.
#pragma once

#include "tessera/attention/engines/score.h"
#include "tessera/autograd/op.h"
#include "tessera/core/tensor.h"

namespace tessera {

// What every softmax engine returns. Partial results over disjoint keys merge exactly through the
// logsumexp (attention/merge.h), so both are differentiable.
struct AttentionResult {
  Tensor output;     // (B, H, N, Dv)
  Tensor logsumexp;  // (B, H, N): log Σ_j exp(score_ij) over the visible keys; −inf for none; f32
                     // for halves
};

// Which entries of the scores count, and what becomes of them. Every condition that is set must
// hold. Integer tensors are i32; (B|1, H|1, N) means that batch and head may be 1 for all. Key j is
// at position j and query i at i + M − N (the queries are the newest tokens) unless positions say
// otherwise.
struct AttentionOptions {
  bool causal = false;          // key position ≤ query position
  double scale = 0;             // of the products; 0: 1 / sqrt(D)
  int64_t left = -1;            // key position ≥ query position − left; −1: no bound
  int64_t right = -1;           // key position ≤ query position + right; −1: no bound
  Tensor key_lengths = {};      // (B): keys j < key_lengths[b]
  Tensor query_positions = {};  // (B|1, H|1, N)
  Tensor key_positions = {};    // (B|1, H|1, M)
  Tensor query_segments = {};   // (B|1, H|1, N): keys of the same segment, for packed sequences
  Tensor key_segments = {};     // (B|1, H|1, M)
  Tensor key_begin = {};        // (B|1, H|1, N): keys key_begin ≤ j < key_end, for every query
  Tensor key_end = {};
  Score score = {};  // applied to the scaled products
};

// Score entries computed by the engines since the start (each visible query–key pair counts once
// per head in a forward pass). Waits for CUDA devices, which count by themselves.
int64_t score_entries();
void count_score_entries(int64_t entries);

namespace engine {

// The scale of the products, with its default.
double scale_of(const AttentionOptions& options, const Tensor& query);
// query (B, H, N, D), key (B, Hk, M, D) and value (B, Hk, M, Dv) must fit one another, H being a
// multiple of Hk; errors begin with `op`.
void check_inputs(std::string_view op, const Tensor& query, const Tensor& key, const Tensor& value);
// The tables of `score` must have the shapes that scores (B, H, N of `query`, `keys`) look up.
void check_tables(std::string_view op, const Score& score, const Tensor& query, int64_t keys);
// Those tables, checked, in the dtype in which engines read them: f32 for halves.
TensorList score_tables(std::string_view op, const Score& score, const Tensor& query, int64_t keys);
// Whether a gradient of an input after query, key and value, a table, is wanted.
bool wants_tables(const Backward& b);
// Score entries of one head that a window lets: as AttentionOptions, positions of their own not
// set.
int64_t window_entries(int64_t queries, int64_t keys, int64_t left, int64_t right);
// A (B, H, N, D) tensor that lies in memory as (B, N, H, D), so that merging heads is free.
Tensor empty_heads(const Shape& shape, DType dtype, Device device);
// x, or a copy of it whose rows along the last dimension are dense.
Tensor with_dense_rows(const Tensor& x);

}  // namespace engine

}  // namespace tessera
