#include "tessera/core/cuda/capture.h"

#include <atomic>

#include "tessera/core/cuda/runtime.h"

namespace tessera {

struct CapturedGraph::State {
  Device device;
  int64_t pool = 0;
  int64_t nodes = 0;
  cudaGraphExec_t graph = nullptr;
};

CapturedGraph::CapturedGraph(Device device, const std::function<void()>& work)
    : state_(std::make_unique<State>()) {
  static std::atomic<int64_t> next_pool{1};
  State& s = *state_;
  s.device = device;
  s.pool = next_pool++;
  cuda::use(device);
  synchronize(device);
  cuda::begin_capture_pool(device, s.pool);
  const cudaStream_t stream = cuda::stream(device);
  cudaGraph_t recorded = nullptr;
  try {
    cuda::check_status(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "graph");
    work();
    cuda::check_status(cudaStreamEndCapture(stream, &recorded), "graph");
    size_t count = 0;
    cuda::check_status(cudaGraphGetNodes(recorded, nullptr, &count), "graph");
    s.nodes = static_cast<int64_t>(count);
    cuda::check_status(cudaGraphInstantiate(&s.graph, recorded, 0), "graph");
    cuda::check_status(cudaGraphUpload(s.graph, stream), "graph");
  } catch (...) {
    if (recorded == nullptr) cudaStreamEndCapture(stream, &recorded);
    if (recorded != nullptr) cudaGraphDestroy(recorded);
    cudaGetLastError();
    cuda::end_capture_pool(device);
    cuda::drop_capture_pool(device, s.pool);
    throw;
  }
  cudaGraphDestroy(recorded);
  cuda::end_capture_pool(device);
}

CapturedGraph::~CapturedGraph() {
  if (state_->graph == nullptr) return;
  cudaStreamSynchronize(cuda::stream(state_->device));
  cudaGraphExecDestroy(state_->graph);
  cuda::drop_capture_pool(state_->device, state_->pool);
}

void CapturedGraph::replay() const {
  cuda::use(state_->device);
  cuda::check_status(cudaGraphLaunch(state_->graph, cuda::stream(state_->device)), "graph");
}

int64_t CapturedGraph::nodes() const {
  return state_->nodes;
}

bool is_recording(Device device) {
  return device.is_cuda() && cuda::is_capturing(device);
}

}  // namespace tessera
