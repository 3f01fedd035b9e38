#include "tessera/core/shape.h"

namespace tessera {

std::string to_string(const Shape& shape) {
  std::string text = "(";
  for (int64_t i = 0; i < shape.rank(); ++i) {
    if (i > 0) text += ", ";
    text += std::to_string(shape[i]);
  }
  return text + ")";
}

Strides contiguous_strides(const Shape& shape) {
  Strides strides = shape;
  int64_t step = 1;
  for (int64_t i = shape.rank() - 1; i >= 0; --i) {
    strides[i] = step;
    step *= std::max<int64_t>(shape[i], 1);
  }
  return strides;
}

Shape broadcast_shapes(const Shape& a, const Shape& b, std::string_view op) {
  const Shape& longer = a.rank() >= b.rank() ? a : b;
  const Shape& shorter = a.rank() >= b.rank() ? b : a;
  Shape result = longer;
  const int64_t lead = longer.rank() - shorter.rank();
  for (int64_t i = 0; i < shorter.rank(); ++i) {
    int64_t& size = result[lead + i];
    check(size == shorter[i] || size == 1 || shorter[i] == 1,
          "{}: shapes do not broadcast: {} and {} differ in dimension {}", op, a, b, lead + i);
    if (size == 1) size = shorter[i];
  }
  return result;
}

int64_t normalize_dim(int64_t dim, int64_t rank, std::string_view op) {
  check(dim >= -rank && dim < rank, "{}: dimension {} is out of range for rank {}", op, dim, rank);
  return dim < 0 ? dim + rank : dim;
}

Shape normalize_dims(const Shape& dims, int64_t rank, std::string_view op) {
  Shape result;
  if (dims.empty()) {
    for (int64_t i = 0; i < rank; ++i) result.push_back(i);
    return result;
  }
  for (int64_t dim : dims) result.push_back(normalize_dim(dim, rank, op));
  std::sort(result.begin(), result.end());
  check(std::adjacent_find(result.begin(), result.end()) == result.end(),
        "{}: dimensions {} name one twice", op, dims);
  return result;
}

}  // namespace tessera
