// The common ground of ops that reduce, scan or sort along dimensions: they work on the rows of a
// matrix. Moving dimensions there and back is differentiable (a view where strides allow).
#pragma once

#include <cmath>

#include "tessera/core/tensor.h"

namespace tessera::detail {

// x seen as a matrix (rows, size): `dims` (empty: all) moved to the end and flattened. Halves are
// computed in f32: converted here, or by the kernels themselves for an op that has such on CUDA.
enum class Halves { converted, kept_on_cuda };
class RowView {
 public:
  RowView(const Tensor& x, const Shape& dims, std::string_view op,
          Halves halves = Halves::converted);

  const Tensor& matrix() const { return matrix_; }
  int64_t rows() const { return matrix_.size(0); }
  int64_t size() const { return matrix_.size(1); }
  // (rows) → x's shape without `dims`, or with size 1 there.
  Tensor reduced(const Tensor& y, bool keep_dims) const;
  // (rows, k) → x's shape with size k along the one dimension.
  Tensor along(const Tensor& y) const;

 private:
  Tensor restored(const Tensor& y) const;  // a half again where x was one

  Tensor matrix_;
  Shape kept_;       // the sizes of the other dimensions
  Shape with_ones_;  // x's shape with 1 along `dims`
  Shape back_;       // the order that undoes the move
  DType dtype_;
};

// RowView along exactly one dimension.
RowView rows_along(const Tensor& x, int64_t dim, std::string_view op,
                   Halves halves = Halves::converted);

// Integers and halves as f32; differentiable.
Tensor as_floating(const Tensor& x);

// fn<T>() for the dtypes whose elements can be compared in place: all but the halves.
template <class Fn>
void visit_comparable(DType dtype, const Fn& fn) {
  visit_dtype(dtype, [&]<class T>() {
    if constexpr (std::is_arithmetic_v<T>) fn.template operator()<T>();
  });
}

// The order of max and sort: NaN is greater than every number.
template <class T>
bool is_nan(T x) {
  if constexpr (std::is_floating_point_v<T>) return std::isnan(x);
  return false;
}
template <class T>
bool greater(T a, T b) {
  return a > b || (is_nan(a) && !is_nan(b));
}

}  // namespace tessera::detail
