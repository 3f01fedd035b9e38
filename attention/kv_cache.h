// The keys and values of the past, per layer, for generation.
#pragma once

#include "tessera/core/tensor.h"

namespace tessera {

// Contiguous cache of one layer: (B, Hk, capacity, D), keys stored after rotation.
class KvCache {
 public:
  explicit KvCache(int64_t capacity) : capacity_(capacity) {}

  // Appends (B, Hk, N, D) keys and values; throws when the capacity is exceeded.
  void append(const Tensor& key, const Tensor& value);
  Tensor key() const;  // views of what is stored: (B, Hk, length, D)
  Tensor value() const;
  int64_t length() const { return length_; }
  int64_t capacity() const { return capacity_; }
  void truncate(int64_t length);  // forgets everything after `length`
  int64_t bytes() const;          // of what is stored

 private:
  int64_t capacity_ = 0;
  int64_t length_ = 0;
  Tensor key_;
  Tensor value_;
};

}  // namespace tessera
