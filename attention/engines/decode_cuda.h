// The decode engine on CUDA, and what it shares with the CPU's: where pieces begin.
#pragma once

#include <span>

#include "tessera/attention/engines/decode.h"
#include "tessera/attention/kv_cache.h"
#include "tessera/core/inline.h"

namespace tessera {
namespace decode {

// Keys of one piece of a sequence with so many: some dozen pieces, so that a few sequences fill a
// device, but no more than are merged in little time.
TESSERA_HD constexpr int piece_length(int keys) {
  return keys <= 2048 ? 64 : keys <= 8192 ? 128 : keys <= 32768 ? 256 : keys <= 131072 ? 512 : 1024;
}
TESSERA_HD constexpr int piece_count(int keys) {
  const int length = piece_length(keys);
  return keys / length + (keys % length != 0 ? 1 : 0);
}
// The largest piece_count of all lengths up to `keys`.
constexpr int most_pieces(int keys) {
  int most = piece_count(keys);
  for (int border : {2048, 8192, 32768, 131072}) {
    if (keys > border && piece_count(border) > most) most = piece_count(border);
  }
  return most;
}

// Whether the kernels on CUDA compute this score themselves.
inline bool has_kernels(const Score& score) {
  return score.is_identity() || score.name() == "alibi";
}

struct Problem {
  Tensor query;
  CacheView cache;  // or keys and values that were given as tensors
  DecodeOptions options;
  int64_t keys = 0;                       // of the longest sequence
  int64_t capacity = 0;                   // of a sequence
  std::span<const int64_t> lengths = {};  // of the sequences, where the host knows them

  int64_t key_heads() const { return cache.key.size(1); }
  int64_t width() const { return query.size(3); }
  int64_t value_width() const { return cache.value.size(3); }
  int64_t selected() const {  // keys that a list can name, −1 without one
    const Tensor& list = options.selected;
    return list.defined() ? list.size(2) * options.selected_size : -1;
  }
};

// The listed keys, with the places of queries and keys: what the engine is without its kernels.
struct Gathered {
  Tensor key, value;      // (B, Hk, K, ·); all keys without a list
  Tensor query_position;  // i64 (B|1, 1, N)
  Tensor key_position;    // i64 (B|1, H|1, K); beyond all keys for padding
  Tensor seen;            // i64 (B|1, 1, N): only positions before this one are
};
Gathered gather_keys(const Tensor& query, const Tensor& key, const Tensor& value,
                     const DecodeOptions& options);

}  // namespace decode

// Of a problem that was checked, with the scale resolved.
AttentionResult decode_cuda(const decode::Problem& problem);

}  // namespace tessera
