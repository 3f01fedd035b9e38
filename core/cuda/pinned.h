// Host memory that passes between host and device. Only .cu files include this.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

#include "tessera/core/cuda/runtime.h"

namespace tessera::cuda {

// Host memory that the device reads and writes directly.
class PinnedMemory {
 public:
  explicit PinnedMemory(size_t bytes);
  ~PinnedMemory();
  PinnedMemory(const PinnedMemory&) = delete;
  PinnedMemory& operator=(const PinnedMemory&) = delete;
  void* data() const { return data_; }

 private:
  void* data_ = nullptr;
};

// The same with the moment from which the host may touch it again.
class PinnedSlot {
 public:
  explicit PinnedSlot(size_t bytes);
  ~PinnedSlot();
  PinnedSlot(const PinnedSlot&) = delete;
  PinnedSlot& operator=(const PinnedSlot&) = delete;

  void* data() const { return memory_.data(); }
  const PinnedMemory& memory() const { return memory_; }
  size_t size() const { return size_; }
  void used_until_now(cudaStream_t stream);  // by what was asked of the stream up to here
  void wait() const;                         // on the host, for that

 private:
  PinnedMemory memory_;
  size_t size_;
  cudaEvent_t done_ = nullptr;
};

}  // namespace tessera::cuda
