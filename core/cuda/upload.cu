#include "tessera/core/cuda/upload.h"

#include <array>
#include <cstring>
#include <map>

#include "tessera/core/create.h"
#include "tessera/core/cuda/pinned.h"
#include "tessera/core/cuda/runtime.h"
#include "tessera/core/kernels/copy.h"

namespace tessera::cuda {
namespace {

// Pinned memory and a copy of it on the device.
struct Slot {
  explicit Slot(size_t bytes, Device device)
      : host(bytes), staged(empty({static_cast<int64_t>(bytes)}, {DType::u8, device})) {
    check_status(cudaEventCreateWithFlags(&arrived, cudaEventDisableTiming), "upload");
    check_status(cudaEventCreateWithFlags(&consumed, cudaEventDisableTiming), "upload");
  }
  ~Slot() {
    cudaEventDestroy(arrived);
    cudaEventDestroy(consumed);
  }
  Slot(const Slot&) = delete;
  Slot& operator=(const Slot&) = delete;

  PinnedMemory host;
  Tensor staged;
  cudaEvent_t arrived = nullptr;   // the copy stream wrote `staged`
  cudaEvent_t consumed = nullptr;  // the main stream has read it
};

struct Channel {
  Tensor target;
  std::array<std::unique_ptr<Slot>, 2> slots;
  size_t next = 0;
};

}  // namespace

struct Uploader::State {
  Device device;
  cudaStream_t stream = nullptr;
  std::map<std::string, Channel> channels;
};

Uploader::Uploader(Device device) : state_(std::make_unique<State>()) {
  state_->device = device;
  use(device);
  check_status(cudaStreamCreateWithFlags(&state_->stream, cudaStreamNonBlocking), "upload");
}

Uploader::~Uploader() {
  cudaStreamSynchronize(state_->stream);
  cudaStreamSynchronize(stream(state_->device));
  state_->channels.clear();
  cudaStreamDestroy(state_->stream);
}

Tensor Uploader::upload(const std::string& name, const Tensor& host) {
  State& s = *state_;
  const Tensor from = kernels::contiguous(host);
  const auto bytes = static_cast<size_t>(from.numel() * size_of(from.dtype()));
  use(s.device);
  Channel& channel = s.channels[name];
  const cudaStream_t main = stream(s.device);
  if (!channel.target.defined() || channel.target.shape() != from.shape() ||
      channel.target.dtype() != from.dtype()) {
    synchronize(s.device);
    check_status(cudaStreamSynchronize(s.stream), "upload");
    channel.target = empty(from.shape(), {from.dtype(), s.device});
    for (auto& slot : channel.slots) slot = std::make_unique<Slot>(bytes, s.device);
    // The blocks may have had another use on the main stream.
    synchronize(s.device);
  }
  if (bytes == 0) return channel.target;
  Slot& slot = *channel.slots[channel.next];
  channel.next = (channel.next + 1) % channel.slots.size();
  check_status(cudaEventSynchronize(slot.arrived), "upload");
  std::memcpy(slot.host.data(), from.raw_data(), bytes);
  check_status(cudaStreamWaitEvent(s.stream, slot.consumed, 0), "upload");
  check_status(cudaMemcpyAsync(slot.staged.raw_data(), slot.host.data(), bytes,
                               cudaMemcpyHostToDevice, s.stream),
               "upload");
  check_status(cudaEventRecord(slot.arrived, s.stream), "upload");
  check_status(cudaStreamWaitEvent(main, slot.arrived, 0), "upload");
  check_status(cudaMemcpyAsync(channel.target.raw_data(), slot.staged.raw_data(), bytes,
                               cudaMemcpyDeviceToDevice, main),
               "upload");
  check_status(cudaEventRecord(slot.consumed, main), "upload");
  return channel.target;
}

}  // namespace tessera::cuda
