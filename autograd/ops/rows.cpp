#include "tessera/autograd/ops/rows.h"

#include "tessera/autograd/op.h"
#include "tessera/autograd/ops/cast.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/registry.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"

namespace tessera::detail {
namespace {

// y[r, index[r, k]] += x[r, k], the adjoint of pick.
void put_into(const Tensor& y, const Tensor& x, const Tensor& index) {
  const Tensor from = kernels::contiguous(x);
  const int64_t k = index.size(1);
  const int64_t n = y.size(1);
  const int64_t* at = index.data<int64_t>();
  visit_comparable(y.dtype(), [&]<class T>() {
    T* to = y.data<T>();
    const T* values = from.data<T>();
    for_each_row(y.size(0), k, [&](int64_t r) {
      for (int64_t i = r * k; i < (r + 1) * k; ++i) {
        to[r * n + at[i]] = static_cast<T>(to[r * n + at[i]] + values[i]);
      }
    });
  });
}

Tensor put(const Tensor& x, const Tensor& index, int64_t size);

struct Pick {
  static constexpr std::string_view name = "pick";
  int64_t size;

  Tensor forward(Forward& f, const Tensor& x, const Tensor& index) const {
    f.save(index);
    const Tensor from = kernels::contiguous(x);
    const Tensor y = empty(index.shape(), {x.dtype(), x.device()});
    const int64_t* at = index.data<int64_t>();
    const int64_t k = index.size(1);
    visit_dtype(x.dtype(), [&]<class T>() {
      const T* values = from.data<T>();
      T* to = y.data<T>();
      for_each_row(index.size(0), k, [&](int64_t r) {
        for (int64_t i = r * k; i < (r + 1) * k; ++i) to[i] = values[r * size + at[i]];
      });
    });
    return y;
  }
  void backward(Backward& b) const {
    const Tensor index = b.saved(0);
    if (b.recording()) {
      b.add(0, put(b.grad(), index, size));
    } else {
      put_into(b.zeroed(0, {index.size(0), size}, b.grad().dtype()), b.grad(), index);
    }
  }
};

struct Put {
  static constexpr std::string_view name = "pick";
  int64_t size;

  Tensor forward(Forward& f, const Tensor& x, const Tensor& index) const {
    f.save(index);
    const Tensor y = zeros({index.size(0), size}, {x.dtype(), x.device()});
    put_into(y, x, index);
    return y;
  }
  void backward(Backward& b) const { b.add(0, pick(b.grad(), b.saved(0))); }
};

Tensor put(const Tensor& x, const Tensor& index, int64_t size) {
  return apply(Put{size}, x, index);
}

const RegisterOp row{{
    .name = "pick",
    .formula = "y[r, k] = x[r, index[r, k]]",
    .source = "",
    .samples =
        [] {
          return std::vector<OpSample>{
              {"repeated",
               {samples::normal({3, 4}), samples::integers({3, 5}, 0, 4)},
               [](const TensorList& x) { return TensorList{pick(x[0], x[1])}; },
               {}},
              {"size 0",
               {samples::normal({3, 4}), samples::integers({3, 0}, 0, 4)},
               [](const TensorList& x) { return TensorList{pick(x[0], x[1])}; },
               {}}};
        },
    .wrong_calls = {},
}};

}  // namespace

Tensor pick(const Tensor& x, const Tensor& index) {
  return apply(Pick{x.size(1)}, x, index);
}

Tensor as_floating(const Tensor& x) {
  return is_integral(x.dtype()) || is_half(x.dtype()) ? cast(x, DType::f32) : x;
}

RowView::RowView(const Tensor& x, const Shape& dims, std::string_view op) : dtype_(x.dtype()) {
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
  const Tensor full = is_half(dtype_) ? cast(x, DType::f32) : x;
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

RowView rows_along(const Tensor& x, int64_t dim, std::string_view op) {
  return {x, {normalize_dim(dim, x.rank(), op)}, op};
}

}  // namespace tessera::detail
