#include "tessera/core/cuda/capture.h"

// A build without CUDA kernels has nothing to record.
#ifndef TESSERA_HAS_CUDA
namespace tessera {

struct CapturedGraph::State {};

CapturedGraph::CapturedGraph(Device device, const std::function<void()>&) {
  fail("graph: {} asked for, but this build has no CUDA kernels", device);
}
CapturedGraph::~CapturedGraph() = default;
void CapturedGraph::replay() const {}
int64_t CapturedGraph::nodes() const {
  return 0;
}
bool is_recording(Device) {
  return false;
}

}  // namespace tessera
#endif
