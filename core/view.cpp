#include "tessera/core/view.h"

#include "tessera/core/kernels/copy.h"

namespace tessera::views {

Tensor as_strided(const Tensor& x, const Shape& shape, const Strides& strides, int64_t offset) {
  return Tensor(x.storage(), shape, strides, offset, x.dtype());
}

Tensor slice(const Tensor& x, int64_t dim, int64_t start, int64_t stop, int64_t step) {
  dim = normalize_dim(dim, x.rank(), "slice");
  const int64_t size = x.shape()[dim];
  check(step != 0, "slice: step must not be 0 (dimension {} of {})", dim, x.shape());
  step = std::clamp(step, -size - 1, size + 1);  // longer ones reach no further element
  int64_t count = 0;
  if (step > 0) {
    start = std::clamp<int64_t>(start < 0 ? start + size : start, 0, size);
    stop = std::clamp<int64_t>(stop < 0 ? stop + size : stop, start, size);
    count = (stop - start + step - 1) / step;
  } else {
    start = std::clamp<int64_t>(start, -1, size - 1);
    stop = std::clamp<int64_t>(stop, -1, start);
    count = (start - stop - step - 1) / -step;
  }
  Shape shape = x.shape();
  Strides strides = x.strides();
  shape[dim] = count;
  strides[dim] *= step;
  const int64_t offset = x.offset() + (count > 0 ? start * x.strides()[dim] : 0);
  return as_strided(x, shape, strides, offset);
}

Tensor select(const Tensor& x, int64_t dim, int64_t index) {
  dim = normalize_dim(dim, x.rank(), "select");
  const int64_t size = x.shape()[dim];
  check(index >= -size && index < size, "select: index {} is out of range for dimension {} of {}",
        index, dim, x.shape());
  if (index < 0) index += size;
  Shape shape = x.shape();
  Strides strides = x.strides();
  const int64_t offset = x.offset() + index * strides[dim];
  shape.erase(dim);
  strides.erase(dim);
  return as_strided(x, shape, strides, offset);
}

Tensor transpose(const Tensor& x, int64_t a, int64_t b) {
  a = normalize_dim(a, x.rank(), "transpose");
  b = normalize_dim(b, x.rank(), "transpose");
  Shape shape = x.shape();
  Strides strides = x.strides();
  std::swap(shape[a], shape[b]);
  std::swap(strides[a], strides[b]);
  return as_strided(x, shape, strides, x.offset());
}

Tensor permute(const Tensor& x, const Shape& order) {
  check(order.rank() == x.rank(), "permute: order {} does not fit shape {}", order, x.shape());
  normalize_dims(order, x.rank(), "permute");  // each dimension once
  Shape shape;
  Strides strides;
  for (int64_t dim : order) {
    shape.push_back(x.size(dim));
    strides.push_back(x.stride(dim));
  }
  return as_strided(x, shape, strides, x.offset());
}

Tensor expand(const Tensor& x, const Shape& shape) {
  const int64_t lead = shape.rank() - x.rank();
  check(lead >= 0, "expand: shape {} has fewer dimensions than {}", shape, x.shape());
  for (int64_t size : shape) check(size >= 0, "expand: negative size in shape {}", shape);
  Strides strides = Shape::filled(shape.rank(), 0);
  for (int64_t i = 0; i < x.rank(); ++i) {
    check(x.shape()[i] == shape[lead + i] || x.shape()[i] == 1, "expand: {} does not expand to {}",
          x.shape(), shape);
    if (x.shape()[i] == shape[lead + i]) strides[lead + i] = x.strides()[i];
  }
  return as_strided(x, shape, strides, x.offset());
}

Tensor unsqueeze(const Tensor& x, int64_t dim) {
  dim = normalize_dim(dim, x.rank() + 1, "unsqueeze");
  Shape shape = x.shape();
  Strides strides = x.strides();
  strides.insert(dim, dim < x.rank() ? shape[dim] * strides[dim] : 1);
  shape.insert(dim, 1);
  return as_strided(x, shape, strides, x.offset());
}

Tensor squeeze(const Tensor& x, int64_t dim) {
  dim = normalize_dim(dim, x.rank(), "squeeze");
  check(x.shape()[dim] == 1, "squeeze: dimension {} of {} is not 1", dim, x.shape());
  Shape shape = x.shape();
  Strides strides = x.strides();
  shape.erase(dim);
  strides.erase(dim);
  return as_strided(x, shape, strides, x.offset());
}

Shape infer_shape(const Shape& shape, int64_t numel, std::string_view op) {
  Shape result = shape;
  int64_t known = 1;
  int64_t unknown = -1;
  bool overflow = false;
  for (int64_t i = 0; i < shape.rank(); ++i) {
    if (shape[i] == -1) {
      check(unknown < 0, "{}: shape {} has more than one -1", op, shape);
      unknown = i;
    } else {
      check(shape[i] >= 0, "{}: shape {} has a negative size", op, shape);
      overflow |= __builtin_mul_overflow(known, shape[i], &known);
    }
  }
  const bool fits = unknown < 0 ? known == numel : known > 0 && numel % known == 0;
  check(fits && !overflow, "{}: {} elements do not fill shape {}", op, numel, shape);
  if (unknown >= 0) result[unknown] = numel / known;
  return result;
}

std::optional<Strides> reshape_strides(const Tensor& x, const Shape& shape) {
  Strides strides = contiguous_strides(shape);
  if (x.numel() == 0) return strides;
  // Walk both shapes from the back: groups of old dimensions that lie densely in one another can
  // be cut up freely.
  int64_t next = shape.rank() - 1;
  int64_t old = x.rank() - 1;
  while (old >= 0) {
    if (x.shape()[old] == 1) {
      --old;
      continue;
    }
    const int64_t step = x.strides()[old];
    int64_t run = x.shape()[old];
    while (old > 0 && (x.shape()[old - 1] == 1 || x.strides()[old - 1] == run * step)) {
      --old;
      run *= x.shape()[old];
    }
    int64_t filled = 1;
    while (next >= 0 && filled < run) {
      strides[next] = step * filled;
      filled *= shape[next--];
    }
    if (filled != run) return std::nullopt;
    --old;
  }
  return strides;
}

Tensor reshape(const Tensor& x, const Shape& shape) {
  const Shape wanted = infer_shape(shape, x.numel(), "reshape");
  if (auto strides = reshape_strides(x, wanted)) {
    return as_strided(x, wanted, *strides, x.offset());
  }
  const Tensor dense = kernels::contiguous(x);
  return as_strided(dense, wanted, contiguous_strides(wanted), dense.offset());
}

}  // namespace tessera::views
