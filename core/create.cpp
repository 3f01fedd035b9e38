#include "tessera/core/create.h"

#include <cmath>
#include <cstring>

#include "tessera/core/kernels/copy.h"
#include "tessera/core/kernels/copy_cuda.h"
#include "tessera/core/kernels/fill.h"

namespace tessera {

namespace {

// Throws when the elements, or the strides of a shape with a size 0, cannot be counted.
int64_t bytes_for(const Shape& shape, DType dtype) {
  int64_t bytes = size_of(dtype);
  bool overflow = false;
  for (int64_t size : shape) {
    check(size >= 0, "empty: negative size in shape {}", shape);
    overflow |= __builtin_mul_overflow(bytes, std::max<int64_t>(size, 1), &bytes);
  }
  check(!overflow, "empty: shape {} has too many elements", shape);
  return shape.numel() == 0 ? 0 : bytes;
}

}  // namespace

Tensor empty(const Shape& shape, Options options) {
  const int64_t bytes = bytes_for(shape, options.dtype);
  return Tensor(std::make_shared<Storage>(bytes, options.device), shape, contiguous_strides(shape),
                0, options.dtype);
}

Tensor full(const Shape& shape, double value, Options options) {
  Tensor result = empty(shape, options);
  kernels::fill(result, value);
  return result;
}

Tensor zeros(const Shape& shape, Options options) {
  return full(shape, 0, options);
}
Tensor ones(const Shape& shape, Options options) {
  return full(shape, 1, options);
}
Tensor scalar(double value, Options options) {
  return full({}, value, options);
}
Tensor empty_like(const Tensor& x) {
  return empty(x.shape(), {x.dtype(), x.device()});
}
Tensor zeros_like(const Tensor& x) {
  return zeros(x.shape(), {x.dtype(), x.device()});
}
Tensor ones_like(const Tensor& x) {
  return ones(x.shape(), {x.dtype(), x.device()});
}

Tensor eye(int64_t n, Options options) {
  Tensor result = zeros({n, n}, options);
  kernels::fill(Tensor(result.storage(), {n}, {n + 1}, 0, options.dtype), 1);
  return result;
}

Tensor arange(double start, double stop, double step, Options options) {
  check(step != 0, "arange: step must not be 0 (start {}, stop {})", start, stop);
  const double steps = std::ceil((stop - start) / step);
  check(std::abs(steps) < 0x1p48, "arange: cannot count from {} to {} by {}", start, stop, step);
  const auto count = std::max<int64_t>(0, static_cast<int64_t>(steps));
  if constexpr (kCuda) {
    if (options.device.is_cuda()) {
      Tensor result = empty({count}, options);
      kernels::arange_cuda(result, start, step);
      return result;
    }
  }
  std::vector<double> values(static_cast<size_t>(count));
  for (size_t i = 0; i < values.size(); ++i) values[i] = start + static_cast<double>(i) * step;
  return kernels::cast(from_values(values, {count}), options.dtype);
}

Tensor linspace(double start, double stop, int64_t count, Options options) {
  check(count >= 0, "linspace: negative count {}", count);
  std::vector<double> values(static_cast<size_t>(count), start);
  for (size_t i = 1; i < values.size(); ++i) {
    values[i] = start + (stop - start) * static_cast<double>(i) / static_cast<double>(count - 1);
  }
  return kernels::to_device(kernels::cast(from_values(values, {count}), options.dtype),
                            options.device);
}

template <class T>
Tensor from_values(std::span<const T> values, const Shape& shape) {
  check(static_cast<int64_t>(values.size()) == shape.numel(),
        "from_values: {} values do not fill shape {}", values.size(), shape);
  Tensor result = empty(shape, {dtype_of<T>(), {}});
  if (!values.empty()) std::memcpy(result.raw_data(), values.data(), values.size_bytes());
  return result;
}

Tensor tensor(std::initializer_list<double> values, const Shape& shape, DType dtype) {
  return kernels::cast(from_values(std::span(values.begin(), values.size()), shape), dtype);
}

template Tensor from_values<float>(std::span<const float>, const Shape&);
template Tensor from_values<double>(std::span<const double>, const Shape&);
template Tensor from_values<int64_t>(std::span<const int64_t>, const Shape&);
template Tensor from_values<int32_t>(std::span<const int32_t>, const Shape&);
template Tensor from_values<uint8_t>(std::span<const uint8_t>, const Shape&);

}  // namespace tessera
