#include "tessera/core/cuda/download.h"

// A build without CUDA kernels has only the CPU's values.
#ifndef TESSERA_HAS_CUDA
#include <deque>

#include "tessera/core/kernels/copy.h"

namespace tessera {

struct Downloader::State {
  std::deque<Tensor> asked;
};

Downloader::Downloader(Device) : state_(std::make_unique<State>()) {}
Downloader::~Downloader() = default;

void Downloader::ask(const Tensor& x) {
  state_->asked.push_back(kernels::clone(x));
}

Tensor Downloader::take() {
  check(!state_->asked.empty(), "download: nothing was asked for");
  Tensor x = state_->asked.front();
  state_->asked.pop_front();
  return x;
}

}  // namespace tessera
#endif
