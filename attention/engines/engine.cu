#include "tessera/attention/engines/engine_cuda.h"

#include <map>
#include <mutex>

#include "tessera/core/cuda/runtime.h"

namespace tessera::engine {
namespace {

__device__ unsigned long long entries_computed;

std::mutex counters_mutex;
std::map<int, unsigned long long*> counters;  // of the devices that were asked for

}  // namespace

unsigned long long* entry_counter(Device device) {
  const std::lock_guard lock(counters_mutex);
  unsigned long long*& counter = counters[device.index];
  if (counter == nullptr) {
    cuda::use(device);
    void* address = nullptr;
    cuda::check_status(cudaGetSymbolAddress(&address, entries_computed), "score_entries");
    counter = static_cast<unsigned long long*>(address);
  }
  return counter;
}

int64_t entries_on_devices() {
  const std::lock_guard lock(counters_mutex);
  int64_t total = 0;
  for (const auto& [index, counter] : counters) {
    const Device device{Device::Kind::cuda, index};
    unsigned long long count = 0;
    cuda::use(device);
    cuda::check_status(cudaMemcpyAsync(&count, counter, sizeof(count), cudaMemcpyDeviceToHost,
                                       cuda::stream(device)),
                       "score_entries");
    cuda::check_status(cudaStreamSynchronize(cuda::stream(device)), "score_entries");
    total += static_cast<int64_t>(count);
  }
  return total;
}

}  // namespace tessera::engine
