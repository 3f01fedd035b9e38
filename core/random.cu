#include <cmath>
#include <mutex>
#include <numbers>
#include <vector>

#include "tessera/core/cuda/kernel.h"
#include "tessera/core/cuda/random.h"
#include "tessera/core/cuda/runtime.h"
#include "tessera/core/math.h"
#include "tessera/core/normal_quantile.h"
#include "tessera/core/random_cuda.h"

namespace tessera {

namespace {

// Of the running step, for the graphs of this device.
__device__ uint64_t captured_step;

__global__ void set_step_kernel(uint64_t step) {
  captured_step = step;
}

const uint64_t* step_address(Device device) {
  static std::mutex mutex;
  static std::vector<void*> addresses;
  std::lock_guard lock(mutex);
  const auto index = static_cast<size_t>(device.index);
  if (addresses.size() <= index) addresses.resize(index + 1);
  if (addresses[index] == nullptr) {
    cuda::use(device);
    cuda::check_status(cudaGetSymbolAddress(&addresses[index], captured_step), "random");
  }
  return static_cast<const uint64_t*>(addresses[index]);
}

}  // namespace

cuda::DeviceKey cuda::device_key(const RandomKey& key, Device device) {
  const uint64_t* step = step_address(device);  // found before anything is recorded
  const bool fresh = key.scoped && is_capturing(device);
  return {key.seed, key.stream, key.use, fresh ? step : nullptr};
}

namespace kernels {
namespace {

constexpr unsigned kThreads = 256;

// draw(words, i) makes element i of those of one counter.
template <class T, int N, class Draw>
__global__ void draw_kernel(T* x, int64_t n, cuda::DeviceKey key, Draw draw) {
  const cuda::Philox random(key);
  for (int64_t c = cuda::thread_index(); c * N < n; c += cuda::thread_count()) {
    const std::array<uint32_t, 4> words = random(static_cast<uint64_t>(c));
#pragma unroll
    for (int i = 0; i < N; ++i) {
      if (c * N + i < n) x[c * N + i] = draw(words.data(), i);
    }
  }
}

template <class T, int N = detail::kPerCounter<T>, class Draw>
void fill_from(std::string_view op, const Tensor& x, RandomKey key, const Draw& draw) {
  cuda::launch(op, x.device(), draw_kernel<T, N, Draw>,
               cuda::blocks_for(x.numel(), int64_t{kThreads} * N), kThreads, 0, cuda::data<T>(x),
               x.numel(), cuda::device_key(key, x.device()), draw);
}

template <class T>
struct Uniform {
  T start, width, last;
  __device__ T operator()(const uint32_t* words, int i) const {
    const T y = math::detail::multiply_add(width, detail::unit<T>(words, i), start);
    return y < last ? y : last;
  }
};

// Elements 2k and 2k + 1 are the cosine and the sine of one angle.
template <class T>
struct Normal {
  T shift, scale;
  __device__ T operator()(const uint32_t* words, int i) const {
    const int pair = i / 2 * 2;
    const T radius = math::sqrt(T(-2) * math::log(detail::positive_unit<T>(words, pair)));
    const T angle = 2 * std::numbers::pi_v<T> * detail::unit<T>(words, pair + 1);
    const T z = radius * (i % 2 == 0 ? math::cos(angle) : math::sin(angle));
    return math::detail::multiply_add(scale, z, shift);
  }
};

template <class T>
struct Truncated {
  TruncatedNormal d;
  __device__ T operator()(const uint32_t* words, int i) const {
    const double u = detail::positive_unit<T>(words, i);
    const double z = d.sign * detail::normal_quantile(d.from + (d.to - d.from) * u);
    const double y = d.mean + d.stddev * z;
    return static_cast<T>(y < d.low ? d.low : (y > d.high ? d.high : y));
  }
};

template <class T>
struct Bernoulli {
  uint64_t threshold;
  __device__ T operator()(const uint32_t* words, int i) const {
    return convert<T>(words[i] < threshold ? 1.0f : 0.0f);
  }
};

}  // namespace

void uniform_cuda(const Tensor& x, double low, double high, RandomKey key) {
  tessera::visit_floating("uniform", x.dtype(), [&]<class T>() {
    const T start = static_cast<T>(low);
    const Uniform<T> draw{start, static_cast<T>(high - low),
                          std::nextafter(static_cast<T>(high), start)};
    fill_from<T>("uniform", x, key, draw);
  });
}

void normal_cuda(const Tensor& x, double mean, double stddev, RandomKey key) {
  tessera::visit_floating("normal", x.dtype(), [&]<class T>() {
    fill_from<T>("normal", x, key, Normal<T>{static_cast<T>(mean), static_cast<T>(stddev)});
  });
}

void truncated_normal_cuda(const Tensor& x, const TruncatedNormal& shape, RandomKey key) {
  tessera::visit_floating("truncated_normal", x.dtype(), [&]<class T>() {
    fill_from<T>("truncated_normal", x, key, Truncated<T>{shape});
  });
}

void bernoulli_cuda(const Tensor& x, uint64_t threshold, RandomKey key) {
  visit_dtype(x.dtype(),
              [&]<class T>() { fill_from<T, 4>("bernoulli", x, key, Bernoulli<T>{threshold}); });
}

void set_captured_step_cuda(Device device, uint64_t step) {
  check(!cuda::is_capturing(device),
        "set_captured_step: called while a graph of {} is recorded; call it before each replay",
        device);
  step_address(device);
  cuda::launch("set_captured_step", device, set_step_kernel, 1, 1, 0, step);
}

}  // namespace kernels
}  // namespace tessera
