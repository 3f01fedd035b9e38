// Raw views: new handles on the same storage, without gradient history. The differentiable
// functions of the same meaning (slice, transpose, …) are in autograd/ops/view.h.
#pragma once

#include <optional>

#include "tessera/core/tensor.h"

namespace tessera::views {

Tensor as_strided(const Tensor& x, const Shape& shape, const Strides& strides, int64_t offset);
// Elements start, start + step, … before stop along dim; negative start and stop count from the
// end and are clamped; a negative step walks backwards and then start and stop are plain
// positions (stop may be -1).
Tensor slice(const Tensor& x, int64_t dim, int64_t start, int64_t stop, int64_t step = 1);
Tensor select(const Tensor& x, int64_t dim, int64_t index);  // drops the dimension
Tensor transpose(const Tensor& x, int64_t a, int64_t b);
Tensor permute(const Tensor& x, const Shape& order);
Tensor expand(const Tensor& x, const Shape& shape);  // broadcast without copying
Tensor unsqueeze(const Tensor& x, int64_t dim);
Tensor squeeze(const Tensor& x, int64_t dim);  // the size must be 1

// Resolves one -1 in `shape` against numel; throws when the sizes do not fit.
Shape infer_shape(const Shape& shape, int64_t numel, std::string_view op);
// Strides that make `x` look like `shape` without copying, if there are any.
std::optional<Strides> reshape_strides(const Tensor& x, const Shape& shape);
// A view when possible, else a dense copy.
Tensor reshape(const Tensor& x, const Shape& shape);

}  // namespace tessera::views
