#include "tessera/attention/kv_cache.h"

#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/view.h"

namespace tessera {
namespace {

Tensor room_for(const Tensor& x, int64_t capacity) {
  return empty({x.size(0), x.size(1), capacity, x.size(3)}, {x.dtype(), x.device()});
}

}  // namespace

void KvCache::append(const Tensor& key, const Tensor& value) {
  const int64_t added = key.size(2);
  check(length_ + added <= capacity_, "kv_cache: {} tokens stored, {} more exceed the capacity {}",
        length_, added, capacity_);
  if (!key_.defined()) {
    key_ = room_for(key, capacity_);
    value_ = room_for(value, capacity_);
  }
  check(key.size(0) == key_.size(0) && key.size(1) == key_.size(1),
        "kv_cache: keys {} do not fit the stored {}", key.shape(), key_.shape());
  kernels::copy(views::slice(key_, 2, length_, length_ + added), key);
  kernels::copy(views::slice(value_, 2, length_, length_ + added), value);
  length_ += added;
}

Tensor KvCache::key() const {
  return views::slice(key_, 2, 0, length_);
}
Tensor KvCache::value() const {
  return views::slice(value_, 2, 0, length_);
}

void KvCache::truncate(int64_t length) {
  check(length >= 0 && length <= length_, "kv_cache: cannot keep {} of {} tokens", length, length_);
  length_ = length;
}

int64_t KvCache::bytes() const {
  if (!key_.defined()) return 0;
  const int64_t per_token = (key_.numel() + value_.numel()) / std::max<int64_t>(1, capacity_);
  return per_token * length_ * size_of(key_.dtype());
}

}  // namespace tessera
