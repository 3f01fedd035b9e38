#include "tessera/core/kernels/accumulate.h"

#include "tessera/core/create.h"
#include "tessera/core/kernels/accumulate_cuda.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/kernels/strided.h"
#include "tessera/core/view.h"

namespace tessera::kernels {
namespace {

template <class T>
using Wide = std::conditional_t<std::is_integral_v<T>, int64_t, double>;

// Eight partial sums keep the additions independent, so the loop vectorises with a fixed order.
template <class T>
T sum_row(const T* x, int64_t n) {
  Wide<T> lanes[8] = {};
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    for (int64_t k = 0; k < 8; ++k) lanes[k] += static_cast<Wide<T>>(x[i + k]);
  }
  for (; i < n; ++i) lanes[i % 8] += static_cast<Wide<T>>(x[i]);
  Wide<T> total = 0;
  for (const Wide<T>& lane : lanes) total += lane;
  return static_cast<T>(total);
}

// (outer, reduced, 1) → (outer)
template <class T>
void sum_rows(const T* x, T* y, int64_t outer, int64_t reduced) {
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, reduced));
  parallel_for((outer + grain - 1) / grain, outer * reduced, [&](int64_t piece) {
    const int64_t last = std::min(outer, (piece + 1) * grain);
    for (int64_t i = piece * grain; i < last; ++i) y[i] = sum_row(x + i * reduced, reduced);
  });
}

template <class T>
void add_rows(const T* x, T* y, int64_t rows, int64_t inner) {
  for (int64_t r = 0; r < rows; ++r) {
    const T* row = x + r * inner;
    for (int64_t i = 0; i < inner; ++i) y[i] = static_cast<T>(y[i] + row[i]);
  }
}

// (outer, reduced, inner) → (outer, inner); a single outer slice is cut into fixed parts of rows.
template <class T>
void sum_columns(const T* x, T* y, int64_t outer, int64_t reduced, int64_t inner) {
  std::fill(y, y + outer * inner, T{});
  if (outer > 1 || reduced < 2 * kSumParts) {
    parallel_for(outer, outer * reduced * inner, [&](int64_t o) {
      add_rows(x + o * reduced * inner, y + o * inner, reduced, inner);
    });
    return;
  }
  const Tensor parts = zeros({kSumParts, inner}, {dtype_of<T>(), {}});
  T* partial = parts.data<T>();
  const int64_t rows = (reduced + kSumParts - 1) / kSumParts;
  parallel_for(kSumParts, reduced * inner, [&](int64_t p) {
    const int64_t first = std::min(reduced, p * rows);
    const int64_t count = std::min(reduced, first + rows) - first;
    add_rows(x + first * inner, partial + p * inner, count, inner);
  });
  add_rows(partial, y, kSumParts, inner);
}

}  // namespace

void add_in_place(const Tensor& sum, const Tensor& x) {
  check(sum.shape() == x.shape(), "add_in_place: shapes differ: {} += {}", sum.shape(), x.shape());
  check(sum.device() == x.device(), "add_in_place: {} += a tensor on {}", sum.device(), x.device());
  if constexpr (kCuda) {
    if (sum.device().is_cuda()) return add_in_place_cuda(sum, x);
  }
  const Tensor other = cast(x, sum.dtype());
  const Tensor* operands[] = {&sum, &other};
  const StridedLoop loop(sum.shape(), operands);
  visit_dtype(sum.dtype(), [&]<class T>() {
    T* to = sum.data<T>();
    const T* from = other.data<T>();
    const int64_t step_to = loop.row_stride(0);
    const int64_t step_from = loop.row_stride(1);
    using Compute = std::conditional_t<sizeof(T) == 2, float, T>;
    loop.for_each_piece(kGrain, [&](const int64_t* offsets, int64_t count) {
      T* a = to + offsets[0];
      const T* b = from + offsets[1];
      auto plus = [](T p, T q) { return convert<T>(convert<Compute>(p) + convert<Compute>(q)); };
      if (step_to == 1 && step_from == 1) {
        for (int64_t i = 0; i < count; ++i) a[i] = plus(a[i], b[i]);
      } else {
        for (int64_t i = 0; i < count; ++i) a[i * step_to] = plus(a[i * step_to], b[i * step_from]);
      }
    });
  });
}

Tensor sum(const Tensor& x, const Shape& dims, bool keep_dims) {
  const Shape reduced = normalize_dims(dims, x.rank(), "sum");
  Shape order;  // kept dimensions, then the reduced ones
  Shape kept;   // their sizes
  Shape with_ones = x.shape();
  for (int64_t d = 0; d < x.rank(); ++d) {
    if (std::find(reduced.begin(), reduced.end(), d) == reduced.end()) {
      order.push_back(d);
      kept.push_back(x.shape()[d]);
    } else {
      with_ones[d] = 1;
    }
  }
  const DType dtype =
      x.dtype() == DType::boolean || x.dtype() == DType::u8 ? DType::i64 : x.dtype();
  if constexpr (kCuda) {
    if (x.device().is_cuda()) {
      const Tensor y = empty(kept, {dtype, x.device()});
      sum_cuda(y, x, reduced);
      return keep_dims ? views::reshape(y, with_ones) : y;
    }
  }
  const DType compute = is_half(dtype) ? DType::f32 : dtype;
  const bool leading = !reduced.empty() && reduced.back() == reduced.rank() - 1;
  int64_t outer = kept.numel();
  int64_t inner = 1;
  Tensor source = cast(x, compute);
  if (leading && x.is_contiguous()) {
    std::swap(outer, inner);  // sums of columns: no copy
  } else {
    for (int64_t d : reduced) order.push_back(d);
    source = views::permute(source, order);
  }
  source = contiguous(source);
  const int64_t count = outer * inner == 0 ? 0 : x.numel() / (outer * inner);
  Tensor result = empty(kept, {compute, x.device()});
  visit_dtype(compute, [&]<class T>() {
    if constexpr (sizeof(T) >= 4) {
      if (leading && outer == 1 && x.is_contiguous()) {
        sum_columns(source.data<T>(), result.data<T>(), outer, count, inner);
      } else {
        sum_rows(source.data<T>(), result.data<T>(), outer, count);
      }
    }
  });
  result = cast(result, dtype);
  return keep_dims ? views::reshape(result, with_ones) : result;
}

Tensor sum_to(const Tensor& x, const Shape& shape) {
  if (x.shape() == shape) return x;
  const int64_t lead = x.rank() - shape.rank();
  Shape dims;
  for (int64_t d = 0; d < x.rank(); ++d) {
    if (d < lead || (shape[d - lead] == 1 && x.shape()[d] != 1)) dims.push_back(d);
  }
  if (dims.empty()) return views::reshape(x, shape);
  return views::reshape(sum(x, dims, true), shape);
}

}  // namespace tessera::kernels
