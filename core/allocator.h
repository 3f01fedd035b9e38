// Memory: one caching allocator per device. A training step asks the system for nothing after the
// first one: freed blocks are kept by size class (four classes per power of two) and handed out
// again. Thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>

#include "tessera/core/device.h"

namespace tessera {

constexpr size_t kAlignment = 64;

struct AllocatorStats {
  int64_t live = 0;          // bytes in blocks that tensors hold now
  int64_t reserved = 0;      // live plus kept for reuse
  int64_t peak = 0;          // the highest `live` since reset_peak()
  int64_t system_calls = 0;  // how often the system was asked for memory
};

class Allocator {
 public:
  virtual ~Allocator() = default;
  virtual void* allocate(size_t bytes) = 0;                  // 64-byte aligned, uninitialised
  virtual void deallocate(void* pointer, size_t bytes) = 0;  // `bytes` as asked for
  AllocatorStats stats() const;
  void reset_peak();
  // The most bytes that may be reserved; at first the memory of the machine, because a system that
  // overcommits grants more and kills the program later. Beyond it allocate() throws Error.
  void set_limit(int64_t bytes);
  int64_t limit() const;
  virtual void release_cached() = 0;  // gives kept blocks back to the system

 protected:
  explicit Allocator(int64_t limit) : limit_(limit) {}

  mutable std::mutex mutex_;  // of all below, and of what a kind of allocator keeps
  AllocatorStats stats_;
  int64_t limit_;
};

Allocator& allocator(Device device);  // throws Error for a device this build does not have

}  // namespace tessera
