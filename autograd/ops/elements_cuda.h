// Elements of any dtype as kernels of reductions, scans and sorts see them: as numbers of the
// widest type, or as unsigned keys in the order of detail::greater. The dtype is known at run time
// only, which keeps the number of kernels small. Only .cu files include this.
#pragma once

#include <cstdint>

#include "tessera/core/cuda/runtime.h"
#include "tessera/core/dtype.h"

namespace tessera::detail {

struct Elements {
  const void* data = nullptr;
  DType dtype = DType::f32;

  Elements() = default;
  explicit Elements(const Tensor& x) : data(x.raw_data()), dtype(x.dtype()) {}

  bool wide() const { return size_of(dtype) == 8; }
  __device__ float half(int64_t i) const {
    return dtype == DType::bf16 ? convert<float>(static_cast<const bfloat16*>(data)[i])
                                : convert<float>(static_cast<const float16*>(data)[i]);
  }

  template <class W>
  __device__ W at(int64_t i) const {
    switch (dtype) {
      case DType::f32:
        return static_cast<W>(static_cast<const float*>(data)[i]);
      case DType::f64:
        return static_cast<W>(static_cast<const double*>(data)[i]);
      case DType::i64:
        return static_cast<W>(static_cast<const int64_t*>(data)[i]);
      case DType::i32:
        return static_cast<W>(static_cast<const int32_t*>(data)[i]);
      case DType::bf16:
      case DType::f16:
        return static_cast<W>(half(i));
      default:
        return static_cast<W>(static_cast<const uint8_t*>(data)[i]);
    }
  }

  // The greatest key: of NaN where there is one.
  __device__ uint64_t top() const {
    return dtype == DType::f64 || dtype == DType::i64 ? ~uint64_t{0} : 0xffffffffu;
  }
  // Keys order like their elements; zeros of both signs are equal, and so are all NaN.
  __device__ uint64_t key(int64_t i) const {
    if (dtype == DType::f32 || is_half(dtype)) {
      const float x = dtype == DType::f32 ? static_cast<const float*>(data)[i] : half(i);
      const unsigned bits = x == 0 ? 0u : __float_as_uint(x);
      return x != x ? 0xffffffffu : bits ^ (bits >> 31 != 0 ? 0xffffffffu : 0x80000000u);
    }
    if (dtype == DType::f64) {
      constexpr uint64_t kSign = uint64_t{1} << 63;
      const double x = static_cast<const double*>(data)[i];
      const auto bits = x == 0 ? uint64_t{0} : static_cast<uint64_t>(__double_as_longlong(x));
      return x != x ? ~uint64_t{0} : bits ^ ((bits & kSign) != 0 ? ~uint64_t{0} : kSign);
    }
    if (dtype == DType::i64) return static_cast<uint64_t>(at<int64_t>(i)) ^ uint64_t { 1 } << 63;
    return static_cast<unsigned>(at<int32_t>(i)) ^ 0x80000000u;
  }
  // The other way round, but NaN stays greatest where `nan_first`.
  __device__ uint64_t reversed_key(int64_t i, bool nan_first) const {
    const uint64_t k = key(i);
    return nan_first && is_floating(dtype) && k == top() ? k : top() - k;
  }
};

// Where results go.
struct Results {
  void* data = nullptr;
  DType dtype = DType::f32;

  Results() = default;
  explicit Results(const Tensor& x) : data(x.raw_data()), dtype(x.dtype()) {}

  template <class W>
  __device__ void put(int64_t i, W value) const {
    switch (dtype) {
      case DType::f32:
        static_cast<float*>(data)[i] = static_cast<float>(value);
        return;
      case DType::f64:
        static_cast<double*>(data)[i] = static_cast<double>(value);
        return;
      case DType::i64:
        static_cast<int64_t*>(data)[i] = static_cast<int64_t>(value);
        return;
      case DType::i32:
        static_cast<int32_t*>(data)[i] = static_cast<int32_t>(value);
        return;
      case DType::bf16:
        static_cast<bfloat16*>(data)[i] = convert<bfloat16>(value);
        return;
      case DType::f16:
        static_cast<float16*>(data)[i] = convert<float16>(value);
        return;
      case DType::boolean:
        static_cast<bool*>(data)[i] = value != W{};
        return;
      default:
        static_cast<uint8_t*>(data)[i] = static_cast<uint8_t>(value);
    }
  }
};

// Another lane's state, word by word.
template <class S>
__device__ S shuffle_down(const S& state, int step) {
  static_assert(sizeof(S) % 4 == 0);
  S result;
  const auto* from = reinterpret_cast<const unsigned*>(&state);
  auto* to = reinterpret_cast<unsigned*>(&result);
#pragma unroll
  for (size_t w = 0; w < sizeof(S) / 4; ++w) {
    to[w] = __shfl_down_sync(0xffffffffu, from[w], static_cast<unsigned>(step));
  }
  return result;
}
template <class S>
__device__ S shuffle_up(const S& state, int step) {
  static_assert(sizeof(S) % 4 == 0);
  S result;
  const auto* from = reinterpret_cast<const unsigned*>(&state);
  auto* to = reinterpret_cast<unsigned*>(&result);
#pragma unroll
  for (size_t w = 0; w < sizeof(S) / 4; ++w) {
    to[w] = __shfl_up_sync(0xffffffffu, from[w], static_cast<unsigned>(step));
  }
  return result;
}

}  // namespace tessera::detail
