// Appending to a cache on CUDA: one kernel that finds its places from lengths on the device.
#pragma once

#include "tessera/attention/kv_cache.h"

namespace tessera {

// Copies tokens of key and value (B, Hk, N, D), of the cache's dtype, behind what `cache` holds
// and advances its lengths; `value` may be undefined. Counts are in cache.added, or N for all.
// Tokens beyond `capacity` are dropped.
void append_cuda(const CacheView& cache, const Tensor& key, const Tensor& value, int64_t capacity);

}  // namespace tessera
