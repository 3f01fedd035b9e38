#include "tessera/autograd/ops/plane_gather.h"

#include "tessera/autograd/op.h"
#include "tessera/autograd/ops/plane_gather_cuda.h"
#include "tessera/autograd/registry.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/parallel.h"

namespace tessera {
namespace {

int64_t product_from(const Shape& shape, int64_t dim) {
  int64_t n = 1;
  for (int64_t d = dim; d < shape.rank(); ++d) n *= shape[d];
  return n;
}

// x (B, C, size…), y and index (B, C or 1, out…), in planes.
struct Planes {
  int64_t count, channels, size, positions;
  bool shared;  // one index plane for all channels

  Planes(const Shape& x, const Shape& index)
      : count(x[0] * x[1]),
        channels(x[1]),
        size(product_from(x, 2)),
        positions(product_from(index, 2)),
        shared(index[1] != x[1]) {}
  const int64_t* index_of(const Tensor& index, int64_t plane) const {
    return index.data<int64_t>() + (shared ? plane / channels : plane) * positions;
  }
};

Shape with_planes(const Tensor& x, const Shape& rest, int64_t skip) {
  Shape shape{x.size(0), x.size(1)};
  for (int64_t d = skip; d < rest.rank(); ++d) shape.push_back(rest[d]);
  return shape;
}

struct PlaneGather {
  static constexpr std::string_view name = "plane_gather";
  Shape size;

  Tensor forward(Forward& f, const Tensor& x, const Tensor& index) const {
    f.save(index);
    const Tensor source = kernels::contiguous(x);
    const Tensor y = empty(with_planes(x, index.shape(), 2), {x.dtype(), x.device()});
    if constexpr (kCuda) {
      if (x.device().is_cuda()) {
        plane_gather_cuda(source, index, y);
        return y;
      }
    }
    const Planes p(x.shape(), index.shape());
    visit_floating(name, x.dtype(), [&]<class T>() {
      parallel_for(p.count, y.numel(), [&](int64_t plane) {
        const T* from = source.data<T>() + plane * p.size;
        const int64_t* at = p.index_of(index, plane);
        T* to = y.data<T>() + plane * p.positions;
        for (int64_t i = 0; i < p.positions; ++i) to[i] = at[i] < 0 ? T(0) : from[at[i]];
      });
    });
    return y;
  }
  void backward(Backward& b) const { b.add(0, plane_scatter(b.grad(), b.saved(0), size)); }
};

struct PlaneScatter {
  static constexpr std::string_view name = "plane_scatter";
  Shape size;

  Tensor forward(Forward& f, const Tensor& y, const Tensor& index) const {
    f.save(index);
    const Tensor source = kernels::contiguous(y);
    if constexpr (kCuda) {
      if (y.device().is_cuda()) {
        const Tensor x = empty(with_planes(y, size, 0), {y.dtype(), y.device()});
        plane_scatter_cuda(source, index, {}, 1, x);
        return x;
      }
    }
    const Tensor x = zeros(with_planes(y, size, 0), {y.dtype(), y.device()});
    const Planes p(x.shape(), index.shape());
    visit_floating(name, y.dtype(), [&]<class T>() {
      parallel_for(p.count, y.numel(), [&](int64_t plane) {
        const T* from = source.data<T>() + plane * p.positions;
        const int64_t* at = p.index_of(index, plane);
        T* to = x.data<T>() + plane * p.size;
        for (int64_t i = 0; i < p.positions; ++i) {
          if (at[i] >= 0) to[at[i]] += from[i];
        }
      });
    });
    return x;
  }
  void backward(Backward& b) const { b.add(0, plane_gather(b.grad(), b.saved(0))); }
};

// Values are checked here on the CPU, and by the kernels on CUDA.
Tensor checked_index(std::string_view op, const Tensor& x, const Tensor& index, int64_t plane) {
  const int64_t batch = x.size(0);
  const int64_t channels = x.size(1);
  check(is_floating(x.dtype()), "{}: wants a floating dtype, got {}", op, x.dtype());
  check(index.device() == x.device(), "{}: index is on {}, but x is on {}; move it with to()", op,
        index.device(), x.device());
  check(index.dtype() == DType::i64 && index.rank() >= 2 && index.size(0) == batch &&
            (index.size(1) == channels || index.size(1) == 1),
        "{}: index must be i64 ({}, {} or 1, …), got {} {}", op, batch, channels, index.dtype(),
        index.shape());
  const Tensor dense = kernels::contiguous(index);
  if (dense.device().is_cuda()) return dense;
  const int64_t* at = dense.data<int64_t>();
  for (int64_t i = 0; i < dense.numel(); ++i) {
    check(at[i] >= -1 && at[i] < plane, "{}: index {} is outside a plane of {} elements", op, at[i],
          plane);
  }
  return dense;
}

OpSample gather_sample(const char* label, const Tensor& x, const Tensor& index) {
  return {label,
          {x, index},
          [](const TensorList& in) { return TensorList{plane_gather(in[0], in[1])}; },
          {}};
}

const RegisterOp gather_row{{
    .name = "plane_gather",
    .formula = "y[b, c, p] = x[b, c, index[b, c, p]]",
    .source = "",
    .samples =
        [] {
          return std::vector<OpSample>{gather_sample("per channel", samples::normal({2, 3, 2, 2}),
                                                     samples::integers({2, 3, 5}, -1, 4)),
                                       gather_sample("one index for all channels",
                                                     samples::strided(samples::normal({2, 3, 4})),
                                                     samples::integers({2, 1, 2, 2}, 0, 4)),
                                       gather_sample("no samples", samples::normal({0, 3, 4}),
                                                     samples::integers({0, 3, 2}, 0, 4))};
        },
    .wrong_calls = {
        [] {
          plane_gather(samples::normal({1, 1, 2}), full({1, 1, 1}, 2, {DType::i64, {}}));
        },
        [] {
          plane_gather(samples::normal({1, 1, 2}), samples::normal({1, 1, 1}));
        }},
}};

const RegisterOp scatter_row{{
    .name = "plane_scatter",
    .formula = "x[b, c, index[b, c, p]] += y[b, c, p]",
    .source = "",
    .samples =
        [] {
          return std::vector<OpSample>{
              {"repeated positions",
               {samples::normal({2, 3, 5}), samples::integers({2, 3, 5}, -1, 4)},
               [](const TensorList& in) {
                 return TensorList{plane_scatter(in[0], in[1], {2, 2})};
               },
               {}}};
        },
    .wrong_calls = {[] {
      plane_scatter(samples::normal({1, 1, 2}), samples::integers({1, 1, 3}, 0, 2), {2});
    }},
}};

}  // namespace

Tensor plane_gather(const Tensor& x, const Tensor& index) {
  check(x.rank() >= 2, "plane_gather: x must be (B, C, spatial…), got {}", x.shape());
  const Tensor dense = checked_index("plane_gather", x, index, product_from(x.shape(), 2));
  return apply(PlaneGather{Shape(std::span(x.shape().begin() + 2, x.shape().end()))}, x, dense);
}

Tensor plane_scatter(const Tensor& y, const Tensor& index, const Shape& size) {
  check(y.rank() >= 2 && index.rank() == y.rank() &&
            std::equal(y.shape().begin() + 2, y.shape().end(), index.shape().begin() + 2),
        "plane_scatter: y {} and index {} differ in their positions", y.shape(), index.shape());
  const Tensor dense = checked_index("plane_scatter", y, index, size.numel());
  return apply(PlaneScatter{size}, y, dense);
}

}  // namespace tessera
