#include "tessera/core/allocator.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdlib>
#include <limits>
#include <mutex>
#include <vector>

#include "tessera/core/cuda/capture.h"

namespace tessera {
namespace {

constexpr size_t kSmallest = 64;

// Class c holds blocks of (4 + c % 4) * 2^(c / 4) * 16 bytes: 64, 80, 96, 112, 128, 160, …
size_t class_of(size_t bytes) {
  if (bytes <= kSmallest) return 0;
  const size_t units = (bytes + 15) / 16;
  const auto power = static_cast<size_t>(std::bit_width(units - 1)) - 3;
  const size_t quarters = (units + (size_t{1} << power) - 1) >> power;  // 5 … 8
  return power * 4 + quarters - 4;
}

int64_t physical_memory() {
  const int64_t pages = ::sysconf(_SC_PHYS_PAGES), size = ::sysconf(_SC_PAGESIZE);
  return pages > 0 && size > 0 ? pages * size : std::numeric_limits<int64_t>::max();
}

size_t class_bytes(size_t c) {
  return ((4 + c % 4) << (c / 4)) * 16;
}

class CpuAllocator final : public Allocator {
 public:
  CpuAllocator() : Allocator(physical_memory()) {}

  void* allocate(size_t bytes) override {
    const size_t c = class_of(bytes);
    const auto size = static_cast<int64_t>(class_bytes(c));
    std::lock_guard lock(mutex_);
    check(c < free_.size(), "memory: {} bytes asked for at once; make the batch smaller", bytes);
    void* pointer = nullptr;
    if (!free_[c].empty()) {
      pointer = free_[c].back();
      free_[c].pop_back();
    } else {
      if (size > limit_ - stats_.reserved) free_cached();
      check(size <= limit_ - stats_.reserved,
            "memory: {} bytes beside {} live ones exceed the {} there are; make the batch or the "
            "model smaller",
            bytes, stats_.live, limit_);
      pointer = std::aligned_alloc(kAlignment, round_up(static_cast<size_t>(size)));
      check(pointer != nullptr,
            "memory: the system refused {} bytes ({} live, {} reserved); make the batch smaller",
            bytes, stats_.live, stats_.reserved);
      stats_.reserved += size;
      ++stats_.system_calls;
    }
    stats_.live += size;
    stats_.peak = std::max(stats_.peak, stats_.live);
    return pointer;
  }

  void deallocate(void* pointer, size_t bytes) override {
    const size_t c = class_of(bytes);
    std::lock_guard lock(mutex_);
    stats_.live -= static_cast<int64_t>(class_bytes(c));
    free_[c].push_back(pointer);
  }

  void release_cached() override {
    std::lock_guard lock(mutex_);
    free_cached();
  }

 private:
  void free_cached() {
    for (size_t c = 0; c < free_.size(); ++c) {
      for (void* pointer : free_[c]) std::free(pointer);
      stats_.reserved -= static_cast<int64_t>(free_[c].size() * class_bytes(c));
      free_[c].clear();
    }
  }

  static size_t round_up(size_t bytes) {
    return (bytes + kAlignment - 1) / kAlignment * kAlignment;
  }

  std::array<std::vector<void*>, 160> free_;
};

}  // namespace

AllocatorStats Allocator::stats() const {
  std::lock_guard lock(mutex_);
  return stats_;
}
void Allocator::reset_peak() {
  std::lock_guard lock(mutex_);
  stats_.peak = stats_.live;
}
void Allocator::set_limit(int64_t bytes) {
  std::lock_guard lock(mutex_);
  limit_ = bytes;
}
int64_t Allocator::limit() const {
  std::lock_guard lock(mutex_);
  return limit_;
}

Allocator& allocator(Device device) {
  if constexpr (kCuda) {
    if (device.is_cuda()) return cuda::allocator(device);
  }
  check(device.is_cpu(), "memory: device {} is not part of this build; use \"cpu\"", device);
  // Never destroyed: tensors with static lifetime may outlive any order of destruction.
  static auto* cpu = new CpuAllocator;
  return *cpu;
}

}  // namespace tessera
