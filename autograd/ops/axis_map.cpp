#include "tessera/autograd/ops/axis_map.h"

#include "tessera/autograd/op.h"
#include "tessera/autograd/ops/axis_map_cuda.h"
#include "tessera/autograd/registry.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/parallel.h"

namespace tessera {
namespace {

// A table with its weights in the type of the kernel.
template <class T>
struct Rows {
  const AxisTable& table;
  std::vector<T> weight;
  explicit Rows(const AxisTable& t) : table(t), weight(t.weight.begin(), t.weight.end()) {}

  template <class Fn>
  void for_each(int64_t row, const Fn& fn) const {
    for (int64_t e = table.first[static_cast<size_t>(row)];
         e < table.first[static_cast<size_t>(row + 1)]; ++e) {
      fn(table.index[static_cast<size_t>(e)], weight[static_cast<size_t>(e)]);
    }
  }
};

// x (outer, in) → y (outer, out)
template <class T>
void map_lines(const Rows<T>& rows, int64_t outer, const T* x, T* y) {
  const int64_t in = rows.table.in;
  const int64_t out = rows.table.out();
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, out));
  parallel_for((outer + grain - 1) / grain, outer * out, [&](int64_t piece) {
    for (int64_t o = piece * grain; o < std::min(outer, (piece + 1) * grain); ++o) {
      const T* line = x + o * in;
      for (int64_t i = 0; i < out; ++i) {
        T sum = 0;
        rows.for_each(i, [&](int64_t j, T w) { sum += w * line[j]; });
        y[o * out + i] = sum;
      }
    }
  });
}

// x (outer, in, inner) → y (outer, out, inner)
template <class T>
void map_planes(const Rows<T>& rows, int64_t outer, int64_t inner, const T* x, T* y) {
  const int64_t out = rows.table.out();
  parallel_for(outer * out, outer * out * inner, [&](int64_t task) {
    const T* from = x + task / out * rows.table.in * inner;
    T* to = y + task * inner;
    std::fill(to, to + inner, T(0));
    rows.for_each(task % out, [&](int64_t j, T w) {
      const T* line = from + j * inner;
#pragma omp simd
      for (int64_t i = 0; i < inner; ++i) to[i] += w * line[i];
    });
  });
}

struct AxisMap {
  std::string_view name;
  int64_t dim;
  std::shared_ptr<const AxisTable> table;
  std::shared_ptr<const AxisTable> adjoint;

  Tensor forward(Forward&, const Tensor& x) const {
    const Tensor source = kernels::contiguous(x);
    Shape shape = x.shape();
    int64_t outer = 1;
    int64_t inner = 1;
    for (int64_t d = 0; d < dim; ++d) outer *= shape[d];
    for (int64_t d = dim + 1; d < shape.rank(); ++d) inner *= shape[d];
    shape[dim] = table->out();
    const Tensor y = empty(shape, {x.dtype(), x.device()});
    if constexpr (kCuda) {
      if (x.device().is_cuda()) {
        axis_map_cuda(name, *table, source, y, outer, inner);
        return y;
      }
    }
    visit_floating(name, x.dtype(), [&]<class T>() {
      const Rows<T> rows(*table);
      if (inner == 1) {
        map_lines(rows, outer, source.data<T>(), y.data<T>());
      } else {
        map_planes(rows, outer, inner, source.data<T>(), y.data<T>());
      }
    });
    return y;
  }
  void backward(Backward& b) const {
    b.add(0, apply(AxisMap{name, dim, adjoint, table}, b.grad()));
  }
};

AxisTable example() {  // (3) → (4): one row is empty, one entry is used twice
  AxisTable table;
  table.in = 3;
  table.add(0, 0.5);
  table.add(2, -2);
  table.end_row();
  table.end_row();
  table.add(2, 1.5);
  table.end_row();
  table.add(1, 1);
  table.end_row();
  return table;
}

OpSample sample(const char* label, const Tensor& x, int64_t dim) {
  return {label,
          {x},
          [dim](const TensorList& in) { return TensorList{axis_map(in[0], dim, example())}; },
          {}};
}

const RegisterOp row{{
    .name = "axis_map",
    .formula = "y[…, i, …] = Σ_j W[i, j] x[…, j, …] with a sparse W",
    .source = "",
    .samples =
        [] {
          return std::vector<OpSample>{
              sample("last dimension", samples::normal({2, 3}), -1),
              sample("middle dimension", samples::normal({2, 3, 2}), 1),
              sample("strided", samples::strided(samples::normal({3, 3})), 0),
              sample("size 0", samples::normal({0, 3}), 1)};
        },
    .wrong_calls = {[] {
                      axis_map(samples::normal({2, 4}), 1, example());
                    },
                    [] { axis_map(samples::normal({3}), 1, example()); },
                    [] { axis_map(samples::integers({3}, 0, 5), 0, example()); }},
}};

}  // namespace

AxisTable AxisTable::transposed() const {
  std::vector<std::vector<std::pair<int64_t, double>>> columns(static_cast<size_t>(in));
  for (int64_t i = 0; i < out(); ++i) {
    for (auto e = static_cast<size_t>(first[static_cast<size_t>(i)]);
         e < static_cast<size_t>(first[static_cast<size_t>(i + 1)]); ++e) {
      columns[static_cast<size_t>(index[e])].emplace_back(i, weight[e]);
    }
  }
  AxisTable result;
  result.in = out();
  for (const auto& column : columns) {
    for (const auto& [at, value] : column) result.add(at, value);
    result.end_row();
  }
  return result;
}

Tensor axis_map(const Tensor& x, int64_t dim, AxisTable table, std::string_view op) {
  dim = normalize_dim(dim, x.rank(), op);
  check(x.shape()[dim] == table.in, "{}: dimension {} of x {} must have size {}", op, dim,
        x.shape(), table.in);
  auto adjoint = std::make_shared<const AxisTable>(table.transposed());
  return apply(
      AxisMap{op, dim, std::make_shared<const AxisTable>(std::move(table)), std::move(adjoint)}, x);
}

}  // namespace tessera
