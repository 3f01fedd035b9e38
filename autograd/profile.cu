#include <cuda_profiler_api.h>

#include <vector>

#include "tessera/autograd/profile_cuda.h"
#include "tessera/core/cuda/runtime.h"

namespace tessera {

struct EventMarks::State {
  Device device;
  std::vector<cudaEvent_t> events;
};

EventMarks::EventMarks(Device device) : state_(std::make_unique<State>()) {
  state_->device = device;
  cuda::use(device);
  cudaProfilerStart();  // tools that were told to wait begin here
}

EventMarks::~EventMarks() {
  cudaProfilerStop();
  for (cudaEvent_t event : state_->events) cudaEventDestroy(event);
}

size_t EventMarks::mark() {
  cuda::use(state_->device);
  cudaEvent_t event = nullptr;
  cuda::check_status(cudaEventCreate(&event), "profile");
  state_->events.push_back(event);
  cuda::check_status(cudaEventRecord(event, cuda::stream(state_->device)), "profile");
  return state_->events.size() - 1;
}

void EventMarks::wait() const {
  synchronize(state_->device);
}

double EventMarks::seconds(size_t from, size_t to) const {
  float milliseconds = 0;
  cuda::check_status(
      cudaEventElapsedTime(&milliseconds, state_->events.at(from), state_->events.at(to)),
      "profile");
  return milliseconds / 1e3;
}

}  // namespace tessera
