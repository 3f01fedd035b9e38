// A training step on a device, without waiting for it: forward and backward over the micro-batches,
// the gradient's norm, clipping, the optimizer, the average. After some steps the whole of it is
// recorded into a graph and replayed. Loss and norm come back one or two steps later.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tessera/data/dataset.h"
#include "tessera/train/ema.h"
#include "tessera/train/optimizer.h"

namespace tessera {

struct DeviceStepOptions {
  Device device;
  uint64_t seed = 1;                // of random numbers in a step
  std::optional<double> clip;       // largest norm of the gradient
  int64_t accumulate = 1;           // micro-batches in a step
  std::string cuda_graph = "auto";  // "off", "on", or "auto": eager where recording fails
};

class DeviceStep {
 public:
  struct Result {
    int64_t step = 0;  // as given to run()
    double loss = 0;
    double norm = 0;  // of the gradient before clipping
    double factor = 0;
  };
  using Loss = std::function<Tensor(const Batch& batch, int64_t step)>;

  // `loss` gives the mean loss of a batch that lies on the device. All are kept by reference.
  // Compiled with the CUDA backend only.
  static std::unique_ptr<DeviceStep> make(Module& model, Loss loss,
                                          const std::vector<Parameter>& parameters,
                                          Optimizer& optimizer, Ema* ema,
                                          const DeviceStepOptions& options);
  virtual ~DeviceStep() = default;

  // Asks the device for update `step` (from 0) with the learning rate's factor. As many batches on
  // the CPU as micro-batches. A step whose loss or norm is not finite leaves all weights as they
  // were.
  virtual void run(int64_t step, double factor, const std::vector<Batch>& batches) = 0;
  // What is known of steps not yet reported, in order: those more than one step behind, waiting
  // for them, or all.
  virtual std::vector<Result> results(bool all) = 0;
  // Nodes of the recorded graph; 0 while there is none. What there is to say about recording
  // that has not been said.
  virtual int64_t graph_nodes() const = 0;
  virtual std::string take_note() = 0;
};

}  // namespace tessera
