#include "tessera/autograd/ops/triangle.h"

#include "tessera/autograd/op.h"
#include "tessera/autograd/ops/triangle_cuda.h"
#include "tessera/autograd/registry.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/parallel.h"

namespace tessera {
namespace {

// A projection: its own adjoint.
struct Triangle {
  static constexpr std::string_view name = "triangle";
  bool lower;
  int64_t diagonal;

  Tensor forward(Forward&, const Tensor& x) const {
    const Tensor dense = kernels::contiguous(x);
    if constexpr (kCuda) {
      if (x.device().is_cuda()) {
        const Tensor result = empty_like(dense);
        triangle_cuda(result, dense, lower, diagonal);
        return result;
      }
    }
    const Tensor y = zeros(x.shape(), {x.dtype(), x.device()});
    const int64_t rows = x.size(-2);
    const int64_t columns = x.size(-1);
    if (x.numel() == 0) return y;
    visit_dtype(x.dtype(), [&]<class T>() {
      parallel_for(x.numel() / columns, x.numel(), [&](int64_t row) {
        // The first column on or beyond the diagonal, seen from the side that is cut.
        const int64_t edge = row % rows + diagonal + (lower ? 1 : 0);
        const int64_t cut = std::clamp<int64_t>(edge, 0, columns);
        const T* from = dense.data<T>() + row * columns;
        T* to = y.data<T>() + row * columns;
        if (lower) {
          std::copy(from, from + cut, to);
        } else {
          std::copy(from + cut, from + columns, to + cut);
        }
      });
    });
    return y;
  }
  void backward(Backward& b) const { b.add(0, apply(*this, b.grad())); }
};

Tensor triangle(const char* op, const Tensor& x, bool lower, int64_t diagonal) {
  check(x.rank() >= 2, "{}: wants a matrix or a batch of them, got {}", op, x.shape());
  return apply(Triangle{lower, diagonal}, x);
}

OpInfo row(const char* name, const char* formula, Tensor (*op)(const Tensor&, int64_t)) {
  const auto all = [op] {
    std::vector<OpSample> list;
    for (const int64_t diagonal : {0, 1, -1, 5, -5}) {
      for (const Shape& shape : {Shape{3, 3}, Shape{2, 2, 4}, Shape{1, 1}, Shape{0, 2}}) {
        list.push_back(
            {fmt::format("{}, diagonal {}", shape, diagonal),
             {samples::normal(shape)},
             [op, diagonal](const TensorList& x) { return TensorList{op(x[0], diagonal)}; },
             {}});
      }
    }
    list.push_back({"strided",
                    {samples::strided(samples::normal({3, 4}))},
                    [op](const TensorList& x) { return TensorList{op(x[0], 0)}; },
                    {}});
    return list;
  };
  return {.name = name, .formula = formula, .source = "", .samples = all, .wrong_calls = {[op] {
                                                                            op(samples::normal({3}),
                                                                               0);
                                                                          }}};
}

const RegisterOp tril_row{row("tril", "y_ij = x_ij where j − i ≤ diagonal, else 0", tril)};
const RegisterOp triu_row{row("triu", "y_ij = x_ij where j − i ≥ diagonal, else 0", triu)};

}  // namespace

Tensor tril(const Tensor& x, int64_t diagonal) {
  return triangle("tril", x, true, diagonal);
}

Tensor triu(const Tensor& x, int64_t diagonal) {
  return triangle("triu", x, false, diagonal);
}

}  // namespace tessera
