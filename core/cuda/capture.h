// Recording a device's work into a graph that is replayed later.
//
//   CapturedGraph graph(device, [&] { … everything that a step asks of the device … });
//   graph.replay();                     // once more, with whatever the inputs' memory holds now
//
// The function runs once while recording, without executing anything. Memory allocated inside comes
// from a pool of the graph and stays its own until the graph is destroyed; tensors made inside hold
// the values of the latest replay. Host values (sizes, learning rates, random keys made outside of
// a RandomScope) are frozen as they were. Anything that waits for the device inside throws.
#pragma once

#include <functional>
#include <memory>

#include "tessera/core/device.h"

namespace tessera {

class Allocator;

class CapturedGraph {
 public:
  CapturedGraph(Device device, const std::function<void()>& work);
  ~CapturedGraph();
  CapturedGraph(const CapturedGraph&) = delete;
  CapturedGraph& operator=(const CapturedGraph&) = delete;

  void replay() const;
  int64_t nodes() const;  // kernels, copies and fills in the graph

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Whether the device's work is being recorded.
bool is_recording(Device device);

namespace cuda {
Allocator& allocator(Device device);  // see core/allocator.h
void begin_capture_pool(Device device, int64_t id);
void end_capture_pool(Device device);
void drop_capture_pool(Device device, int64_t id);
}  // namespace cuda

}  // namespace tessera
