#include "tessera/core/cuda/pinned.h"

#include <algorithm>

namespace tessera::cuda {

PinnedMemory::PinnedMemory(size_t bytes) {
  // A recording forbids such calls unless its thread says otherwise.
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  cudaThreadExchangeStreamCaptureMode(&mode);
  const cudaError_t status =
      cudaHostAlloc(&data_, std::max<size_t>(bytes, 1), cudaHostAllocPortable);
  cudaThreadExchangeStreamCaptureMode(&mode);
  check_status(status, "pinned memory");
}

PinnedMemory::~PinnedMemory() {
  cudaFreeHost(data_);
}

PinnedSlot::PinnedSlot(size_t bytes) : memory_(bytes), size_(bytes) {
  check_status(cudaEventCreateWithFlags(&done_, cudaEventDisableTiming), "pinned memory");
}

PinnedSlot::~PinnedSlot() {
  cudaEventDestroy(done_);
}

void PinnedSlot::used_until_now(cudaStream_t stream) {
  check_status(cudaEventRecord(done_, stream), "pinned memory");
}

void PinnedSlot::wait() const {
  check_status(cudaEventSynchronize(done_), "pinned memory");
}

}  // namespace tessera::cuda
