// Data on its way to a device while the device computes.
//
//   cuda::Uploader uploader(device);
//   const Tensor tokens = uploader.upload("tokens", batch.at("tokens"));   // returns at once
//
// Each name has one tensor on the device, at the same address for every upload of one shape: a
// recorded graph may read it. The values go through pinned memory and a second stream, two uploads
// deep, and arrive in the order of the device's work: what was asked of the device before still
// sees the values from before.
#pragma once

#include <memory>
#include <string>

#include "tessera/core/tensor.h"

namespace tessera::cuda {

class Uploader {
 public:
  explicit Uploader(Device device);
  ~Uploader();
  Uploader(const Uploader&) = delete;
  Uploader& operator=(const Uploader&) = delete;

  // Not while a graph is recorded. The result is overwritten by the next upload of this name.
  Tensor upload(const std::string& name, const Tensor& host);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace tessera::cuda
