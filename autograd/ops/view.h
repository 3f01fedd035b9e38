// Differentiable views: they share storage with their input where strides allow.
#pragma once

#include "tessera/core/tensor.h"

namespace tessera {

// All are differentiable any number of times. Negative dimensions count from the end.
Tensor reshape(const Tensor& x, const Shape& shape);  // one size may be −1; copies if it must
Tensor flatten(const Tensor& x, int64_t first = 0, int64_t last = -1);  // merges dimensions
Tensor transpose(const Tensor& x, int64_t a, int64_t b);
Tensor permute(const Tensor& x, const Shape& order);
Tensor unsqueeze(const Tensor& x, int64_t dim);
Tensor squeeze(const Tensor& x, int64_t dim);
// x[start:stop:step] along dim, with Python's meaning of negative and missing ends for step > 0.
constexpr int64_t kEnd = INT64_MAX;
Tensor slice(const Tensor& x, int64_t dim, int64_t start, int64_t stop = kEnd, int64_t step = 1);
Tensor select(const Tensor& x, int64_t dim, int64_t index);  // drops the dimension
Tensor flip(const Tensor& x, const Shape& dims);             // copies
Tensor contiguous(const Tensor& x);                          // dense; x itself when it is
Tensor clone(const Tensor& x);                               // a fresh dense copy

// Equal pieces or pieces of the given sizes along dim (views), and their adjoints.
TensorList split(const Tensor& x, const std::vector<int64_t>& sizes, int64_t dim);
TensorList chunk(const Tensor& x, int64_t count, int64_t dim);  // the size must be divisible
Tensor concat(const TensorList& xs, int64_t dim);
Tensor stack(const TensorList& xs, int64_t dim);

}  // namespace tessera
