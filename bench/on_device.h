// What the benchmarks of a CUDA device share: random tensors there, and how a call is timed.
#pragma once

#include <algorithm>
#include <chrono>
#include <concepts>
#include <vector>

#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/random.h"

namespace tessera {

inline constexpr Device kGpu{Device::Kind::cuda, 0};

// Other numbers at every call.
inline Tensor normal(const Shape& shape, DType dtype = DType::bf16, double deviation = 1) {
  static uint64_t stream = 0;
  const Tensor x = empty(shape, {DType::f32, kGpu});
  kernels::normal(x, 0, deviation, {5, ++stream});
  return kernels::cast(x, dtype);
}

// Median over nine groups of calls (three of long ones) of the time of one, the device waited for
// around each group of about `group` seconds. `call` may take the number of the call in its group,
// so that inputs take turns.
template <class Call>
double seconds_of(const Call& call, double group = 0.02) {
  using Clock = std::chrono::steady_clock;
  const auto timed = [&](size_t calls) {
    synchronize(kGpu);
    const auto start = Clock::now();
    for (size_t i = 0; i < calls; ++i) {
      if constexpr (std::invocable<const Call&, size_t>) {
        call(i);
      } else {
        call();
      }
    }
    synchronize(kGpu);
    return std::chrono::duration<double>(Clock::now() - start).count() / static_cast<double>(calls);
  };
  timed(1);
  const double once = timed(2);
  const auto calls = static_cast<size_t>(std::clamp(group / once, once > 0.03 ? 1.0 : 3.0, 300.0));
  std::vector<double> times(once > 0.03 ? 3 : 9);
  for (double& time : times) time = timed(calls);
  const auto middle = times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2);
  std::nth_element(times.begin(), middle, times.end());
  return *middle;
}

}  // namespace tessera
