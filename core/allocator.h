// Memory: one caching allocator per device. A training step asks the system for nothing after the
// first one: freed blocks are kept by size class (four classes per power of two) and handed out
// again. Thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>

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
  virtual AllocatorStats stats() const = 0;
  virtual void reset_peak() = 0;
  // The most bytes that may be reserved; at first the memory of the machine, because a system that
  // overcommits grants more and kills the program later. Beyond it allocate() throws Error.
  virtual void set_limit(int64_t bytes) = 0;
  virtual int64_t limit() const = 0;
  virtual void release_cached() = 0;  // gives kept blocks back to the system
};

Allocator& allocator(Device device);  // throws Error for a device this build does not have

}  // namespace tessera
