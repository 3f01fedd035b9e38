// Random numbers in kernels:
//
//   __global__ void noise_kernel(float* x, cuda::DeviceKey key, …) {
//     const cuda::Philox random(key);
//     const auto words = random(counter);           // the four words of (stream, counter)
//   }
//   cuda::launch(…, cuda::device_key(key, x.device()), …);
//
// A key of a RandomScope that goes into a recorded graph names no fixed stream: the step is read
// from the device's memory, where set_captured_step() (core/random.h) puts it before each replay.
#pragma once

#include <array>

#include "tessera/core/philox.h"
#include "tessera/core/random.h"

namespace tessera::cuda {

struct DeviceKey {
  uint64_t seed = 0;
  uint64_t stream = 0;
  uint64_t use = 0;
  const uint64_t* step = nullptr;  // on the device; null: `stream` is what it says
};

// The key for kernels on `device`, with a step in memory while the device's stream is recorded.
DeviceKey device_key(const RandomKey& key, Device device);

#ifdef __CUDACC__
class Philox {
 public:
  __device__ explicit Philox(const DeviceKey& key)
      : key_(key.seed),
        stream_(key.step != nullptr ? detail::mix_words(*key.step, key.use) : key.stream) {}

  __device__ std::array<uint32_t, 4> operator()(uint64_t counter) const {
    uint32_t a = detail::lower(counter), b = detail::upper(counter);
    uint32_t c = detail::lower(stream_), d = detail::upper(stream_);
    detail::PhiloxKey key = key_;
#pragma unroll
    for (int round = 0; round < detail::kPhiloxRounds; ++round, key.bump()) {
      detail::philox_round(a, b, c, d, key);
    }
    return {a, b, c, d};
  }

 private:
  detail::PhiloxKey key_;
  uint64_t stream_;
};
#endif

}  // namespace tessera::cuda
