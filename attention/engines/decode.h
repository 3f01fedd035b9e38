// The decode engine: the newest token (or a few of them) of every sequence against the keys of its
// past, which lie in a cache. The keys are cut into pieces whose length depends on a sequence's own
// number of keys, pieces are attended in parallel and merged in their order: results do not depend
// on the other sequences of a batch, on the number of threads or on how the cache is stored.
#pragma once

#include "tessera/attention/engines/engine.h"

namespace tessera {

class KvCache;

struct DecodeOptions {
  double scale = 0;     // 0: 1 / sqrt(D)
  bool causal = true;   // query i is token L − N + i of L and sees no later key
  Tensor lengths = {};  // i32 (B): L of each sequence; undefined: all keys. A cache has its own
  Tensor added = {};  // i32 (B): the first so many of the N queries are tokens, the others padding
                      // that sees nothing; undefined: all. A cache has its own
  Tensor selected = {};  // i32 (B, Hk, K): the only keys seen; −1 and positions past the end are
                         // padding, duplicates count twice; undefined: all keys. Sizes B and Hk may
                         // be 1
  int64_t selected_size = 1;  // entry p stands for keys p · size … (p + 1) · size − 1: pages
  Score score = {};           // applied to the scaled products
};

// query (B, H, N, D), key (B, Hk, M, D), value (B, Hk, M, Dv): softmax over the visible keys and
// its logsumexp, 0 and −inf where there are none. H is a multiple of Hk as in dense_attention. f32
// or f64 over keys and values in any floating dtype; on CUDA bf16 and f16 too (on tensor cores
// where keys have the same dtype, at most 256 columns and 16-byte aligned rows), and f64 over f64
// alone. On CUDA the kernels know the score functor alibi; any other goes through the dense engine,
// over a copy of the keys. Score entries count on the CPU as they are seen; on CUDA lists
// count with their full length, and lengths that only the device knows as all keys. For inference:
// it has no gradient and refuses inputs that want one.
AttentionResult decode_attention(const Tensor& query, const Tensor& key, const Tensor& value,
                                 const DecodeOptions& options = {});

// The same over what the cache holds: the queries are the tokens of its last append.
AttentionResult decode_attention(const Tensor& query, const KvCache& cache,
                                 const DecodeOptions& options = {});

// The same function composed of plain ops, differentiable, in query's dtype: the engine's
// specification.
AttentionResult decode_attention_reference(const Tensor& query, const Tensor& key,
                                           const Tensor& value, const DecodeOptions& options = {});

// How many queries are few: up to here decoding is faster than the dense engine.
constexpr int64_t kFewQueries = 16;

}  // namespace tessera
