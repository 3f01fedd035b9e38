#include <cstring>
#include <deque>
#include <vector>

#include "tessera/core/create.h"
#include "tessera/core/cuda/download.h"
#include "tessera/core/cuda/pinned.h"
#include "tessera/core/cuda/runtime.h"
#include "tessera/core/kernels/copy.h"

namespace tessera {
namespace {

struct Asked {
  Tensor x;  // keeps its memory until it was copied
  std::unique_ptr<cuda::PinnedSlot> slot;
};

}  // namespace

struct Downloader::State {
  Device device;
  std::deque<Asked> asked;
  std::vector<std::unique_ptr<cuda::PinnedSlot>> free;
};

Downloader::Downloader(Device device) : state_(std::make_unique<State>()) {
  state_->device = device;
}

Downloader::~Downloader() {
  if (!state_->asked.empty()) synchronize(state_->device);
}

void Downloader::ask(const Tensor& x) {
  State& s = *state_;
  check(x.device() == s.device && x.is_contiguous(),
        "download: wants a dense tensor on {}, got {} on {}", s.device, x.shape(), x.device());
  if (s.device.is_cpu()) {
    s.asked.push_back({kernels::clone(x), nullptr});
    return;
  }
  const auto bytes = static_cast<size_t>(x.numel() * size_of(x.dtype()));
  std::unique_ptr<cuda::PinnedSlot> slot;
  if (!s.free.empty() && s.free.back()->size() >= bytes) {
    slot = std::move(s.free.back());
    s.free.pop_back();
  } else {
    slot = std::make_unique<cuda::PinnedSlot>(std::max<size_t>(bytes, 1));
  }
  cuda::use(s.device);
  const cudaStream_t stream = cuda::stream(s.device);
  cuda::check_status(
      cudaMemcpyAsync(slot->data(), x.raw_data(), bytes, cudaMemcpyDeviceToHost, stream),
      "download");
  slot->used_until_now(stream);
  s.asked.push_back({x, std::move(slot)});
}

Tensor Downloader::take() {
  State& s = *state_;
  check(!s.asked.empty(), "download: nothing was asked for");
  Asked first = std::move(s.asked.front());
  s.asked.pop_front();
  if (first.slot == nullptr) return first.x;
  first.slot->wait();
  const Tensor values = empty(first.x.shape(), {first.x.dtype(), {}});
  std::memcpy(values.raw_data(), first.slot->data(),
              static_cast<size_t>(values.numel() * size_of(values.dtype())));
  s.free.push_back(std::move(first.slot));
  return values;
}

}  // namespace tessera
