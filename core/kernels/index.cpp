#include "tessera/core/kernels/index.h"

#include <cstring>

#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/kernels/index_cuda.h"
#include "tessera/core/kernels/strided.h"

namespace tessera::kernels {
namespace {

// x seen as (outer, size, inner) around dim.
struct Around {
  int64_t outer = 1;
  int64_t size = 1;
  int64_t inner = 1;
};

Around around(const Shape& shape, int64_t dim) {
  Around a;
  for (int64_t d = 0; d < shape.rank(); ++d) {
    (d < dim ? a.outer : d == dim ? a.size : a.inner) *= shape[d];
  }
  return a;
}

// The positions of ids grouped by id, in order within a group: a counting sort.
struct Groups {
  std::vector<int64_t> order;  // positions
  std::vector<int64_t> begin;  // of each group in order, and its end
  int64_t count() const { return static_cast<int64_t>(begin.size()) - 1; }
};

Groups group(const int64_t* ids, int64_t n, int64_t bound) {
  std::vector<int64_t> next(static_cast<size_t>(bound), 0);
  for (int64_t i = 0; i < n; ++i) ++next[static_cast<size_t>(ids[i])];
  Groups groups;
  int64_t at = 0;
  for (int64_t& entry : next) {
    if (entry > 0) groups.begin.push_back(at);
    at += std::exchange(entry, at);
  }
  groups.begin.push_back(n);
  groups.order.resize(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) {
    groups.order[static_cast<size_t>(next[static_cast<size_t>(ids[i])]++)] = i;
  }
  return groups;
}

template <class T>
constexpr bool kAddable = std::is_arithmetic_v<T> && !std::is_same_v<T, bool>;

template <class Fn>
void visit_addable(std::string_view op, DType dtype, const Fn& fn) {
  visit_dtype(dtype, [&]<class T>() {
    if constexpr (kAddable<T>) {
      fn.template operator()<T>();
    } else {
      fail("{}: cannot add tensors of dtype {}", op, dtype);
    }
  });
}

// fn(element of full, element of part) for every entry of index, line after line along dim.
template <class T, class Fn>
void for_each_indexed(const Tensor& full, int64_t dim, const Tensor& index, const Tensor& part,
                      const Fn& fn) {
  if (index.numel() == 0) return;
  const auto line = [&](const Tensor& x) {
    Shape shape = index.shape();
    Strides strides = x.strides();
    shape.erase(dim);
    strides.erase(dim);
    return Tensor(x.storage(), shape, strides, x.offset(), x.dtype());
  };
  const Tensor lines[] = {line(full), line(index), line(part)};
  const Tensor* operands[] = {&lines[0], &lines[1], &lines[2]};
  const StridedLoop loop(lines[0].shape(), operands);
  const int64_t count = index.shape()[dim];
  const int64_t steps[] = {full.strides()[dim], index.strides()[dim], part.strides()[dim]};
  T* in_full = full.data<T>();
  const int64_t* ids = index.data<int64_t>();
  T* in_part = part.data<T>();
  loop.for_each_piece(std::max<int64_t>(1, kGrain / count), [&](const int64_t* at, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
      T* f = in_full + at[0] + i * loop.row_stride(0);
      const int64_t* id = ids + at[1] + i * loop.row_stride(1);
      T* p = in_part + at[2] + i * loop.row_stride(2);
      for (int64_t k = 0; k < count; ++k) fn(f[id[k * steps[1]] * steps[0]], p[k * steps[2]]);
    }
  });
}

}  // namespace

Tensor take(const Tensor& x, int64_t dim, const Tensor& ids) {
  if constexpr (kCuda) {
    if (x.device().is_cuda()) return take_cuda(x, dim, ids);
  }
  const Tensor source = contiguous(x);
  const Around from = around(x.shape(), dim);
  const int64_t n = ids.numel();
  Shape shape = x.shape();
  shape[dim] = n;
  const Tensor y = empty(shape, {x.dtype(), x.device()});
  if (y.numel() == 0) return y;
  const int64_t* id = ids.data<int64_t>();
  const int64_t bytes = from.inner * size_of(x.dtype());
  const char* in = static_cast<const char*>(source.raw_data());
  char* out = static_cast<char*>(y.raw_data());
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, from.inner));
  const int64_t pieces = (n + grain - 1) / grain;
  parallel_for(from.outer * pieces, y.numel(), [&](int64_t task) {
    const int64_t o = task / pieces;
    const int64_t first = task % pieces * grain;
    for (int64_t i = first; i < std::min(n, first + grain); ++i) {
      std::memcpy(out + (o * n + i) * bytes, in + (o * from.size + id[i]) * bytes,
                  static_cast<size_t>(bytes));
    }
  });
  return y;
}

void add_at(const Tensor& y, int64_t dim, const Tensor& ids, const Tensor& src) {
  if constexpr (kCuda) {
    if (y.device().is_cuda()) return add_at_cuda(y, dim, ids, src);
  }
  const Tensor source = contiguous(cast(src, y.dtype()));
  const Around to = around(y.shape(), dim);
  const int64_t n = ids.numel();
  if (source.numel() == 0) return;
  const Groups groups = group(ids.data<int64_t>(), n, to.size);
  visit_addable("add_at", y.dtype(), [&]<class T>() {
    const T* in = source.data<T>();
    T* out = y.data<T>();
    const int64_t* id = ids.data<int64_t>();
    parallel_for(to.outer * groups.count(), source.numel(), [&](int64_t task) {
      const int64_t o = task / groups.count();
      const size_t g = static_cast<size_t>(task % groups.count());
      for (int64_t k = groups.begin[g]; k < groups.begin[g + 1]; ++k) {
        const int64_t i = groups.order[static_cast<size_t>(k)];
        T* sum = out + (o * to.size + id[i]) * to.inner;
        const T* row = in + (o * n + i) * to.inner;
#pragma omp simd
        for (int64_t c = 0; c < to.inner; ++c) sum[c] = static_cast<T>(sum[c] + row[c]);
      }
    });
  });
}

Tensor gather(const Tensor& x, int64_t dim, const Tensor& index) {
  if constexpr (kCuda) {
    if (x.device().is_cuda()) return gather_cuda(x, dim, index);
  }
  const Tensor y = empty(index.shape(), {x.dtype(), x.device()});
  visit_dtype(x.dtype(), [&]<class T>() {
    for_each_indexed<T>(x, dim, index, y, [](const T& full, T& part) { part = full; });
  });
  return y;
}

void scatter(const Tensor& y, int64_t dim, const Tensor& index, const Tensor& src) {
  if constexpr (kCuda) {
    if (y.device().is_cuda()) return scatter_cuda(y, dim, index, src);
  }
  const Tensor source = cast(src, y.dtype());
  visit_dtype(y.dtype(), [&]<class T>() {
    for_each_indexed<T>(y, dim, index, source, [](T& full, const T& part) { full = part; });
  });
}

void scatter_add(const Tensor& y, int64_t dim, const Tensor& index, const Tensor& src) {
  if constexpr (kCuda) {
    if (y.device().is_cuda()) return scatter_add_cuda(y, dim, index, src);
  }
  const Tensor source = cast(src, y.dtype());
  visit_addable("scatter_add", y.dtype(), [&]<class T>() {
    for_each_indexed<T>(y, dim, index, source,
                        [](T& full, const T& part) { full = static_cast<T>(full + part); });
  });
}

}  // namespace tessera::kernels
