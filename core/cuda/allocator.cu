// The CUDA allocator: blocks are cut from large segments, the best fit first, and merged with their
// free neighbours when they come back. All work of a device runs in order on one stream, so a block
// may be handed out again while kernels that used it still run.
//
// Small requests (up to 1 MiB) share segments of 2 MiB, larger ones segments of 20 MiB or of their
// own size. While the stream is recorded into a graph, blocks come from segments of the graph alone
// (see CapturePool): a replay writes to them again.
#include <cuda_runtime.h>

#include <map>
#include <mutex>
#include <set>
#include <unordered_map>

#include "tessera/core/allocator.h"
#include "tessera/core/cuda/capture.h"
#include "tessera/core/cuda/runtime.h"

namespace tessera {
namespace {

constexpr size_t kGranule = 512;
constexpr size_t kSmall = size_t{1} << 20;
constexpr size_t kSmallSegment = size_t{2} << 20;
constexpr size_t kLargeSegment = size_t{20} << 20;
constexpr size_t kOwnSegment = size_t{10} << 20;  // from here on a request gets its own segment

size_t round_to(size_t bytes, size_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

struct Pool;

struct Block {
  char* address = nullptr;
  size_t size = 0;
  Pool* pool = nullptr;
  Block* before = nullptr;  // neighbours in the segment
  Block* after = nullptr;
  bool free = true;
};

struct BySize {
  bool operator()(const Block* a, const Block* b) const {
    return a->size != b->size ? a->size < b->size : a->address < b->address;
  }
};

struct Pool {
  bool small = false;
  int64_t capture = 0;  // 0: the common pools
  std::set<Block*, BySize> free;
};

int64_t memory_of(Device device) {
  size_t free = 0, total = 0;
  cuda::use(device);
  cuda::check_status(cudaMemGetInfo(&free, &total), "memory");
  return static_cast<int64_t>(total);
}

class CudaAllocator final : public Allocator {
 public:
  explicit CudaAllocator(Device device) : Allocator(memory_of(device)), device_(device) {}

  void* allocate(size_t bytes) override {
    check(bytes < size_t{1} << 60, "memory: {} bytes asked for at once on {}", bytes, device_);
    const size_t size = round_to(std::max<size_t>(bytes, 1), kGranule);
    std::lock_guard lock(mutex_);
    Pool& pool = pool_for(size);
    Block* block = take(pool, size);
    if (block == nullptr) block = grow(pool, size);
    split(block, size);
    block->free = false;
    used_.emplace(block->address, block);
    stats_.live += static_cast<int64_t>(block->size);
    stats_.peak = std::max(stats_.peak, stats_.live);
    return block->address;
  }

  void deallocate(void* pointer, size_t) override {
    std::lock_guard lock(mutex_);
    const auto found = used_.find(static_cast<char*>(pointer));
    Block* block = found->second;
    used_.erase(found);
    stats_.live -= static_cast<int64_t>(block->size);
    block->free = true;
    if (block->after != nullptr && block->after->free) absorb(block, block->after);
    if (block->before != nullptr && block->before->free) {
      Block* before = block->before;
      absorb(before, block);
      block = before;
    }
    block->pool->free.insert(block);
    retire(block->pool->capture);
  }

  void release_cached() override {
    std::lock_guard lock(mutex_);
    free_segments(0);
  }

  void begin_capture(int64_t id) {
    std::lock_guard lock(mutex_);
    free_segments(0);
    capture_ = id;
  }
  void end_capture() {
    std::lock_guard lock(mutex_);
    capture_ = 0;
  }
  // The graph is gone: its segments are given back as soon as no tensor lies in them.
  void drop_capture(int64_t id) {
    std::lock_guard lock(mutex_);
    dropped_.insert(id);
    retire(id);
  }

 private:
  Pool& pool_for(size_t size) {
    Pool& pool = pools_[{capture_, size <= kSmall}];
    pool.small = size <= kSmall;
    pool.capture = capture_;
    return pool;
  }

  Block* take(Pool& pool, size_t size) {
    Block wanted;
    wanted.size = size;
    const auto found = pool.free.lower_bound(&wanted);
    if (found == pool.free.end()) return nullptr;
    Block* block = *found;
    pool.free.erase(found);
    return block;
  }

  Block* grow(Pool& pool, size_t size) {
    const size_t wanted = pool.small           ? kSmallSegment
                          : size < kOwnSegment ? kLargeSegment
                                               : round_to(size, kSmallSegment);
    void* address = system_allocate(wanted);
    if (address == nullptr && capture_ == 0) {
      free_segments(0);
      address = system_allocate(wanted);
    }
    if (address == nullptr) out_of_memory(size);
    stats_.reserved += static_cast<int64_t>(wanted);
    auto* block = new Block{static_cast<char*>(address), wanted, &pool};
    return block;
  }

  void* system_allocate(size_t bytes) {
    if (static_cast<int64_t>(bytes) > limit_ - stats_.reserved) return nullptr;
    cuda::use(device_);
    void* address = nullptr;
    // A recording forbids calls that may wait for the device unless its thread says otherwise.
    cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    cudaThreadExchangeStreamCaptureMode(&mode);
    const cudaError_t status = cudaMalloc(&address, bytes);
    cudaThreadExchangeStreamCaptureMode(&mode);
    ++stats_.system_calls;
    if (status == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      return nullptr;
    }
    cuda::check_status(status, "memory");
    return address;
  }

  [[noreturn]] void out_of_memory(size_t size) {
    size_t largest = 0;
    for (const auto& [key, pool] : pools_) {
      if (!pool.free.empty()) largest = std::max(largest, (*pool.free.rbegin())->size);
    }
    fail(
        "memory: {} has no room for {} bytes: {} live, {} reserved of {}, the largest free block "
        "has {}; make the batch or the model smaller, or set model.checkpoint",
        device_, size, stats_.live, stats_.reserved, limit_, largest);
  }

  void split(Block* block, size_t size) {
    const size_t rest = block->size - size;
    if (rest < (block->pool->small ? kGranule : kSmall)) return;
    auto* tail = new Block{block->address + size, rest, block->pool, block, block->after};
    if (tail->after != nullptr) tail->after->before = tail;
    block->after = tail;
    block->size = size;
    block->pool->free.insert(tail);
  }

  // `next` follows `block`; whichever of them is in the free list is taken out of it.
  void absorb(Block* block, Block* next) {
    block->pool->free.erase(block);
    block->pool->free.erase(next);
    block->size += next->size;
    block->after = next->after;
    if (block->after != nullptr) block->after->before = block;
    delete next;
  }

  // Gives whole free segments of one capture (0: of the common pools) back to the system.
  void free_segments(int64_t capture) {
    bool waited = false;
    for (auto& [key, pool] : pools_) {
      if (key.first != capture) continue;
      for (auto at = pool.free.begin(); at != pool.free.end();) {
        Block* block = *at;
        if (block->before != nullptr || block->after != nullptr) {
          ++at;
          continue;
        }
        if (!std::exchange(waited, true)) synchronize(device_);
        cuda::use(device_);
        cuda::check_status(cudaFree(block->address), "memory");
        stats_.reserved -= static_cast<int64_t>(block->size);
        at = pool.free.erase(at);
        delete block;
      }
    }
  }

  void retire(int64_t capture) {
    if (capture != 0 && dropped_.contains(capture) && capture_ == 0) free_segments(capture);
  }

  Device device_;
  std::map<std::pair<int64_t, bool>, Pool> pools_;  // by capture and size
  std::unordered_map<char*, Block*> used_;
  std::set<int64_t> dropped_;
  int64_t capture_ = 0;
};

CudaAllocator& cuda_allocator_of(Device device) {
  static std::mutex mutex;
  static std::vector<CudaAllocator*> allocators;  // never destroyed
  std::lock_guard lock(mutex);
  const auto index = static_cast<size_t>(device.index);
  if (allocators.size() <= index) allocators.resize(index + 1);
  if (allocators[index] == nullptr) allocators[index] = new CudaAllocator(device);
  return *allocators[index];
}

}  // namespace

namespace cuda {

Allocator& allocator(Device device) {
  return cuda_allocator_of(device);
}

void begin_capture_pool(Device device, int64_t id) {
  cuda_allocator_of(device).begin_capture(id);
}
void end_capture_pool(Device device) {
  cuda_allocator_of(device).end_capture();
}
void drop_capture_pool(Device device, int64_t id) {
  cuda_allocator_of(device).drop_capture(id);
}

}  // namespace cuda
}  // namespace tessera
