#include "tessera/core/cuda/runtime.h"

#include <mutex>
#include <unordered_map>
#include <vector>

namespace tessera {
namespace cuda {
namespace {

#ifdef TESSERA_HAS_HOPPER
constexpr bool kBuiltForHopper = true;
#else
constexpr bool kBuiltForHopper = false;
#endif

struct DeviceState {
  cudaStream_t stream = nullptr;
  cudaDeviceProp properties{};
};

// The built-for architectures are known to the runtime: asking for any kernel tells.
__global__ void probe_kernel() {}

DeviceState open(int index) {
  DeviceState state;
  check_status(cudaSetDevice(index), "device");
  check_status(cudaGetDeviceProperties(&state.properties, index), "device");
  cudaFuncAttributes attributes{};
  const cudaError_t built = cudaFuncGetAttributes(&attributes, probe_kernel);
  check(built == cudaSuccess,
        "device: cuda:{} ({}, compute capability {}.{}) cannot run the kernels of this build ({}); "
        "configure with -DCMAKE_CUDA_ARCHITECTURES={}{}",
        index, static_cast<const char*>(state.properties.name), state.properties.major,
        state.properties.minor, cudaGetErrorString(built), state.properties.major,
        state.properties.minor);
  check_status(cudaStreamCreateWithFlags(&state.stream, cudaStreamNonBlocking), "device");
  return state;
}

const DeviceState& state_of(Device device) {
  static std::mutex mutex;
  static std::vector<DeviceState*> states;  // never destroyed: tensors may outlive any order
  std::lock_guard lock(mutex);
  const auto index = static_cast<size_t>(device.index);
  if (states.size() <= index) states.resize(index + 1);
  if (states[index] == nullptr) {
    check(device.index < cuda_device_count(), "device: {} asked for, but there are {} CUDA devices",
          device, cuda_device_count());
    states[index] = new DeviceState(open(device.index));
  }
  return *states[index];
}

thread_local int current_index = -1;

}  // namespace

void check_status(cudaError_t status, std::string_view what) {
  if (status != cudaSuccess) [[unlikely]] {
    cudaGetLastError();  // what can be forgotten is forgotten
    fail("{}: CUDA reports {} ({})", what, cudaGetErrorString(status), cudaGetErrorName(status));
  }
}

cudaStream_t stream(Device device) {
  thread_local Device last{Device::Kind::cuda, -1};
  thread_local cudaStream_t found = nullptr;
  if (last.index != device.index) {
    found = state_of(device).stream;
    last = device;
  }
  return found;
}

int multiprocessors(Device device) {
  return state_of(device).properties.multiProcessorCount;
}

size_t shared_limit(Device device) {
  return state_of(device).properties.sharedMemPerBlockOptin;
}

bool is_hopper(Device device) {
  const cudaDeviceProp& p = state_of(device).properties;
  return kBuiltForHopper && p.major == 9 && p.minor == 0;
}

bool is_capturing(Device device) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check_status(cudaStreamIsCapturing(stream(device), &status), "device");
  return status != cudaStreamCaptureStatusNone;
}

void use(Device device) {
  if (current_index == device.index) return;
  state_of(device);  // a device that is not there gets the clearer error
  check_status(cudaSetDevice(device.index), "device");
  current_index = device.index;
}

void prepare_shared(std::string_view op, const void* kernel, size_t shared) {
  static std::mutex mutex;
  static std::unordered_map<const void*, size_t> granted;
  std::lock_guard lock(mutex);
  size_t& most = granted[kernel];
  if (shared <= most) return;
  check_status(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(shared)),
               op);
  most = shared;
}

}  // namespace cuda

int cuda_device_count() {
  static const int count = [] {
    int n = 0;
    if (cudaGetDeviceCount(&n) != cudaSuccess) {
      cudaGetLastError();
      return 0;
    }
    return n;
  }();
  return count;
}

void synchronize(Device device) {
  if (device.is_cpu()) return;
  cuda::use(device);
  cuda::check_status(cudaStreamSynchronize(cuda::stream(device)), "synchronize");
}

}  // namespace tessera
