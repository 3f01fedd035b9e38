#include "tessera/autograd/ops/rows.h"

#include <algorithm>

#include "tessera/autograd/ops/cast.h"
#include "tessera/autograd/ops/view.h"

namespace tessera::detail {
Tensor as_floating(const Tensor& x) {
  return is_integral(x.dtype()) || is_half(x.dtype()) ? cast(x, DType::f32) : x;
}

RowView::RowView(const Tensor& x, const Shape& dims, std::string_view op, Halves halves)
    : dtype_(x.dtype()) {
  const Shape moved = normalize_dims(dims, x.rank(), op);
  with_ones_ = x.shape();
  Shape order;
  for (int64_t d = 0; d < x.rank(); ++d) {
    if (std::find(moved.begin(), moved.end(), d) != moved.end()) {
      with_ones_[d] = 1;
    } else {
      order.push_back(d);
      kept_.push_back(x.shape()[d]);
    }
  }
  for (int64_t d : moved) order.push_back(d);
  back_ = Shape::filled(x.rank(), 0);
  bool in_place = true;
  for (int64_t i = 0; i < order.rank(); ++i) {
    back_[order[i]] = i;
    in_place = in_place && order[i] == i;
  }
  int64_t size = 1;
  for (int64_t d : moved) size *= x.shape()[d];
  const bool kept = halves == Halves::kept_on_cuda && x.device().is_cuda();
  const Tensor full = is_half(dtype_) && !kept ? cast(x, DType::f32) : x;
  matrix_ = reshape(in_place ? full : permute(full, order), {kept_.numel(), size});
}

Tensor RowView::restored(const Tensor& y) const {
  return is_half(dtype_) && y.dtype() == DType::f32 ? cast(y, dtype_) : y;
}

Tensor RowView::reduced(const Tensor& y, bool keep_dims) const {
  return restored(reshape(y, keep_dims ? with_ones_ : kept_));
}

Tensor RowView::along(const Tensor& y) const {
  Shape moved = kept_;
  moved.push_back(y.size(1));
  const Tensor z = reshape(y, moved);
  return restored(back_[back_.rank() - 1] == back_.rank() - 1 ? z : permute(z, back_));
}

RowView rows_along(const Tensor& x, int64_t dim, std::string_view op, Halves halves) {
  return {x, {normalize_dim(dim, x.rank(), op)}, op, halves};
}

}  // namespace tessera::detail
