// Creation of tensors without a gradient history.
#pragma once

#include <span>

#include "tessera/core/tensor.h"

namespace tessera {

struct Options {
  DType dtype = DType::f32;
  Device device = {};
};

Tensor empty(const Shape& shape, Options options = {});  // uninitialised
Tensor full(const Shape& shape, double value, Options options = {});
Tensor zeros(const Shape& shape, Options options = {});
Tensor ones(const Shape& shape, Options options = {});
Tensor scalar(double value, Options options = {});  // shape ()
Tensor empty_like(const Tensor& x);                 // dense, same shape, dtype and device
Tensor zeros_like(const Tensor& x);
Tensor ones_like(const Tensor& x);
Tensor eye(int64_t n, Options options = {});
// start, start + step, … below (above for a negative step) stop.
Tensor arange(double start, double stop, double step = 1, Options options = {DType::i64, {}});
Tensor linspace(double start, double stop, int64_t count, Options options = {});

// Copies the values; their number must equal shape.numel().
template <class T>
Tensor from_values(std::span<const T> values, const Shape& shape);
template <class T>
Tensor from_values(const std::vector<T>& values, const Shape& shape) {
  return from_values<T>(std::span<const T>(values), shape);
}
// A rank-1 f32 tensor or, with a shape, any dense one: tensor({1, 2, 3, 4}, {2, 2}).
Tensor tensor(std::initializer_list<double> values, const Shape& shape, DType dtype = DType::f32);

extern template Tensor from_values<float>(std::span<const float>, const Shape&);
extern template Tensor from_values<double>(std::span<const double>, const Shape&);
extern template Tensor from_values<int64_t>(std::span<const int64_t>, const Shape&);
extern template Tensor from_values<int32_t>(std::span<const int32_t>, const Shape&);
extern template Tensor from_values<uint8_t>(std::span<const uint8_t>, const Shape&);

}  // namespace tessera
