#include "tessera/autograd/ops/scan.h"

#include "tessera/autograd/op.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/cast.h"
#include "tessera/autograd/ops/elementwise.h"
#include "tessera/autograd/ops/indexing.h"
#include "tessera/autograd/ops/rows.h"
#include "tessera/autograd/ops/scan_cuda.h"
#include "tessera/autograd/ops/softmax_rows.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/registry.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"

namespace tessera {
namespace {

using detail::Halves;
using detail::parallel_rows;
using detail::RowView;

template <class T>
using Wide = std::conditional_t<std::is_integral_v<T>, int64_t, double>;

struct Cumsum {
  static constexpr std::string_view name = "cumsum";
  CumsumOptions options;

  Tensor forward(Forward&, const Tensor& x) const {
    if constexpr (kCuda) {
      if (x.device().is_cuda()) {
        return detail::cumsum_rows_cuda(x, options.exclusive, options.reverse);
      }
    }
    const Tensor from = kernels::contiguous(x);
    const Tensor y = empty_like(from);
    const int64_t n = x.size(1);
    detail::visit_comparable(x.dtype(), [&]<class T>() {
      const T* in = from.data<T>();
      T* out = y.data<T>();
      parallel_rows(x.size(0), n, [&](int64_t r) { scan(in + r * n, out + r * n, n); });
    });
    return y;
  }
  void backward(Backward& b) const {
    b.add(0, apply(Cumsum{{options.exclusive, !options.reverse}}, b.grad()));
  }

 private:
  template <class T>
  void scan(const T* x, T* y, int64_t n) const {
    Wide<T> total = 0;
    for (int64_t k = 0; k < n; ++k) {
      const int64_t i = options.reverse ? n - 1 - k : k;
      const Wide<T> before = total;
      total += static_cast<Wide<T>>(x[i]);
      y[i] = static_cast<T>(options.exclusive ? before : total);
    }
  }
};

// gx[k] = y[k − 1] s[k] with s[k] = g[k] + x[k + 1] s[k + 1]: what follows k, without its factor.
struct Cumprod {
  static constexpr std::string_view name = "cumprod";

  static Tensor values(const Tensor& x) {
    if constexpr (kCuda) {
      if (x.device().is_cuda()) return detail::cumprod_rows_cuda(x);
    }
    const Tensor from = kernels::contiguous(x);
    const Tensor y = empty_like(from);
    const int64_t n = x.size(1);
    detail::visit_comparable(x.dtype(), [&]<class T>() {
      const T* in = from.data<T>();
      T* out = y.data<T>();
      parallel_rows(x.size(0), n, [&](int64_t r) {
        Wide<T> total = 1;
        for (int64_t i = r * n; i < (r + 1) * n; ++i) {
          total *= static_cast<Wide<T>>(in[i]);
          out[i] = static_cast<T>(total);
        }
      });
    });
    return y;
  }

  Tensor forward(Forward& f, const Tensor& x) const {
    const Tensor y = values(x);
    f.save_output(y);
    return y;
  }
  void backward(Backward& b) const {
    if constexpr (kCuda) {
      if (b.grad().device().is_cuda()) {
        b.add(0, detail::cumprod_backward_cuda(b.input(0), b.saved(0), b.grad()));
        return;
      }
    }
    const Tensor x = kernels::contiguous(b.input(0));
    const Tensor y = b.saved(0);
    const Tensor grad = kernels::contiguous(b.grad());
    const Tensor gx = empty_like(x);
    const int64_t n = x.size(1);
    visit_floating(name, x.dtype(), [&]<class T>() {
      const T *in = x.data<T>(), *out = y.data<T>(), *g = grad.data<T>();
      T* to = gx.data<T>();
      parallel_rows(x.size(0), n, [&](int64_t r) {
        double after = 0;
        for (int64_t i = (r + 1) * n - 1; i >= r * n; --i) {
          after = static_cast<double>(g[i]) + after;
          to[i] = static_cast<T>(after * (i > r * n ? static_cast<double>(out[i - 1]) : 1));
          after *= static_cast<double>(in[i]);
        }
      });
    });
    b.add(0, gx);
  }
  // Doubling: after the step of size s every entry is the product of 2 s factors (or all).
  Tensor definition(const TensorList& inputs) const {
    Tensor y = inputs[0];
    const int64_t n = y.size(1);
    for (int64_t s = 1; s < n; s *= 2) {
      y = concat({slice(y, 1, 0, s), slice(y, 1, s) * slice(y, 1, 0, n - s)}, 1);
    }
    return y;
  }
};

// gx[k] = exp(x[k] − y[k]) s[k] with s[k] = g[k] + s[k + 1] exp(y[k] − y[k + 1]), all exponents ≤
// 0.
struct LogCumsumExp {
  static constexpr std::string_view name = "logcumsumexp";

  template <class T>
  static void scan(const T* x, T* y, int64_t n) {
    double top = -std::numeric_limits<double>::infinity();
    double total = 0;  // Σ exp(x − top)
    for (int64_t i = 0; i < n; ++i) {
      const double value = static_cast<double>(x[i]);
      if (value > top) {
        total = total * std::exp(top - value) + 1;
        top = value;
      } else if (!std::isinf(value)) {
        total += std::exp(value - top);
      }
      y[i] = static_cast<T>(std::isinf(top) && !std::isnan(total) ? top : top + std::log(total));
    }
  }

  static Tensor values(const Tensor& x) {
    if constexpr (kCuda) {
      if (x.device().is_cuda()) return detail::logcumsumexp_rows_cuda(x);
    }
    const Tensor from = kernels::contiguous(x);
    const Tensor y = empty_like(from);
    const int64_t n = x.size(1);
    visit_floating(name, x.dtype(), [&]<class T>() {
      const T* in = from.data<T>();
      T* out = y.data<T>();
      parallel_rows(x.size(0), n, [&](int64_t r) { scan(in + r * n, out + r * n, n); });
    });
    return y;
  }

  Tensor forward(Forward& f, const Tensor& x) const {
    const Tensor y = values(x);
    f.save_output(y);
    return y;
  }
  void backward(Backward& b) const {
    if constexpr (kCuda) {
      if (b.grad().device().is_cuda()) {
        b.add(0, detail::logcumsumexp_backward_cuda(b.input(0), b.saved(0), b.grad()));
        return;
      }
    }
    const Tensor x = kernels::contiguous(b.input(0));
    const Tensor y = b.saved(0);
    const Tensor grad = kernels::contiguous(b.grad());
    const Tensor gx = empty_like(x);
    const int64_t n = x.size(1);
    visit_floating(name, x.dtype(), [&]<class T>() {
      const T *in = x.data<T>(), *out = y.data<T>(), *g = grad.data<T>();
      T* to = gx.data<T>();
      auto ratio = [](T above, T below) {  // exp(above − below), 0 at infinities
        return std::isinf(below) ? 0.0 : std::exp(static_cast<double>(above - below));
      };
      parallel_rows(x.size(0), n, [&](int64_t r) {
        double after = 0;
        for (int64_t i = (r + 1) * n - 1; i >= r * n; --i) {
          after += static_cast<double>(g[i]);
          to[i] = static_cast<T>(after * ratio(in[i], out[i]));
          if (i > r * n) after *= ratio(out[i - 1], out[i]);
        }
      });
    });
    b.add(0, gx);
  }
  Tensor definition(const TensorList& inputs) const {
    const Tensor& x = inputs[0];
    if (x.numel() == 0) return x;
    const Tensor top = amax(x.detach(), {1}, true);
    return log(cumsum(exp(x - top), 1)) + top;
  }
};

// Where the running maximum of every row stands.
Tensor running_best(const Tensor& x) {
  if constexpr (kCuda) {
    if (x.device().is_cuda()) return detail::running_best_cuda(x.detach());
  }
  const Tensor from = kernels::contiguous(x.detach());
  const Tensor index = empty(x.shape(), {DType::i64, x.device()});
  const int64_t n = x.size(1);
  int64_t* out = index.data<int64_t>();
  detail::visit_comparable(x.dtype(), [&]<class T>() {
    const T* in = from.data<T>();
    parallel_rows(x.size(0), n, [&](int64_t r) {
      const T* row = in + r * n;
      int64_t best = 0;
      for (int64_t i = 0; i < n; ++i) {
        if (detail::greater(row[i], row[best])) best = i;
        out[r * n + i] = best;
      }
    });
  });
  return index;
}

using Scan = std::function<Tensor(const Tensor&, int64_t dim)>;

std::vector<OpSample> scan_samples(const Scan& f, const Scan& definition = {}) {
  std::vector<OpSample> list;
  auto add = [&](const std::string& label, const Tensor& x, int64_t dim) {
    auto run = [=](const Scan& g) {
      return [=](const TensorList& in) { return TensorList{g(in[0], dim)}; };
    };
    list.push_back({label, {x}, run(f), {}});
    if (definition) list.back().definition = run(definition);
  };
  for (int64_t dim : {0, 1, -1}) {
    add(fmt::format("(2, 3, 4) along {}", dim), samples::normal({2, 3, 4}), dim);
  }
  add("strided", samples::strided(samples::normal({3, 5}, 1)), 1);
  add("size 1", samples::normal({3, 1}, 2), 1);
  add("no rows", samples::normal({0, 3}), 1);
  add("rows of size 0", samples::normal({3, 0}), 1);
  return list;
}

OpInfo scan_row(const char* name, const char* formula, const Scan& f, const Scan& definition = {}) {
  return {.name = name,
          .formula = formula,
          .source = "",
          .samples = [=] { return scan_samples(f, definition); },
          .wrong_calls = {[=] { f(samples::normal({2}), 1); }, [=] { f(samples::normal({}), 0); }}};
}

// op on the rows of x along dim; its definition for the comparison of values.
template <class Op>
Tensor along(const Op& op, const Tensor& x, int64_t dim) {
  const Halves halves = std::is_same_v<Op, Cumsum> ? Halves::kept_on_cuda : Halves::converted;
  const RowView view = detail::rows_along(x, dim, Op::name, halves);
  return view.along(apply(op, view.matrix()));
}
template <class Op>
Tensor definition_along(const Tensor& x, int64_t dim) {
  const RowView view = detail::rows_along(x, dim, Op::name);
  return view.along(Op{}.definition({view.matrix()}));
}

OpInfo cumsum_info() {
  OpInfo row = scan_row("cumsum", "y[i] = Σ_{j ≤ i} x[j]",
                        [](const Tensor& x, int64_t dim) { return cumsum(x, dim); });
  row.samples = [] {
    std::vector<OpSample> list;
    for (bool exclusive : {false, true}) {
      for (bool reverse : {false, true}) {
        auto f = [=](const Tensor& x, int64_t dim) { return cumsum(x, dim, {exclusive, reverse}); };
        for (OpSample& s : scan_samples(f)) {
          s.label += fmt::format(", exclusive {}, reverse {}", exclusive, reverse);
          list.push_back(std::move(s));
        }
      }
    }
    return list;
  };
  return row;
}

const RegisterOp cumsum_row{cumsum_info()};
const RegisterOp cumprod_row{
    scan_row("cumprod", "y[i] = Π_{j ≤ i} x[j]", cumprod, definition_along<Cumprod>)};
const RegisterOp logcumsumexp_row{scan_row("logcumsumexp", "y[i] = log Σ_{j ≤ i} exp x[j]",
                                           logcumsumexp, definition_along<LogCumsumExp>)};
const RegisterOp cummax_row{
    scan_row("cummax", "y[i] = max_{j ≤ i} x[j], and its index",
             [](const Tensor& x, int64_t dim) { return cummax(x, dim).values; })};

}  // namespace

Tensor cumsum(const Tensor& x, int64_t dim, CumsumOptions options) {
  const bool narrow = x.dtype() == DType::boolean || x.dtype() == DType::u8;
  return along(Cumsum{options}, narrow ? x.to(DType::i64) : x, dim);
}

Tensor cumprod(const Tensor& x, int64_t dim) {
  return along(Cumprod{}, x, dim);
}

ValuesIndices cummax(const Tensor& x, int64_t dim) {
  const RowView view = detail::rows_along(x, dim, "cummax", Halves::kept_on_cuda);
  const Tensor index = running_best(view.matrix());
  return {view.along(gather(view.matrix(), 1, index)), view.along(index)};
}

Tensor logcumsumexp(const Tensor& x, int64_t dim) {
  return along(LogCumsumExp{}, is_integral(x.dtype()) ? detail::as_floating(x) : x, dim);
}

}  // namespace tessera
