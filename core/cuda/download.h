// Values on their way from a device while the device computes.
//
//   Downloader downloads(device);
//   downloads.ask(ids);                                     // returns at once
//   … more work for the device …
//   const Tensor values = downloads.take();                 // as they were when asked for
#pragma once

#include <memory>

#include "tessera/core/tensor.h"

namespace tessera {

// First asked for, first taken. From the CPU they are copied at once.
class Downloader {
 public:
  explicit Downloader(Device device);
  ~Downloader();
  Downloader(const Downloader&) = delete;
  Downloader& operator=(const Downloader&) = delete;

  void ask(const Tensor& x);  // x is dense; not while a graph is recorded
  Tensor take();              // on the CPU; waits for the device's work up to there

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace tessera
