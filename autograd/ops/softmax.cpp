#include "tessera/autograd/ops/softmax.h"

#include "tessera/autograd/op.h"
#include "tessera/autograd/ops/arguments.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/comparison.h"
#include "tessera/autograd/ops/elementwise.h"
#include "tessera/autograd/ops/softmax_cuda.h"
#include "tessera/autograd/ops/softmax_rows.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/registry.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"

namespace tessera {
namespace {

constexpr double kLowest = -std::numeric_limits<double>::infinity();

// result row = fn(row of each input, row of the result), for dense tensors of one shape.
template <class... In, class Fn>
Tensor map_rows(std::string_view op, const Fn& fn, const Tensor& first, const In&... rest) {
  constexpr size_t kInputs = 1 + sizeof...(In);
  const std::array<Tensor, kInputs> in = {kernels::contiguous(first), kernels::contiguous(rest)...};
  const Tensor result = empty_like(first);
  const int64_t n = first.size(-1);
  if (first.numel() == 0) return result;
  visit_floating(op, first.dtype(), [&]<class T>() {
    std::array<const T*, kInputs> from;
    for (size_t i = 0; i < kInputs; ++i) from[i] = in[i].template data<T>();
    T* to = result.data<T>();
    detail::parallel_rows(first.numel() / n, n, [&](int64_t row) {
      std::array<const T*, kInputs> at;
      for (size_t i = 0; i < kInputs; ++i) at[i] = from[i] + row * n;
      fn(at, to + row * n, n);
    });
  });
  return result;
}

Tensor on_device([[maybe_unused]] const Tensor& x, [[maybe_unused]] bool log) {
  if constexpr (kCuda) return softmax_cuda(kernels::contiguous(x), log);
  return {};
}
Tensor gradient_on_device([[maybe_unused]] const Tensor& y, [[maybe_unused]] const Tensor& g,
                          [[maybe_unused]] bool log) {
  if constexpr (kCuda) {
    return softmax_backward_cuda(kernels::contiguous(y), kernels::contiguous(g), log);
  }
  return {};
}

// y = exp(x) / Σ exp(x), gx = y (g − Σ g y); along the last dimension.
struct Softmax {
  static constexpr std::string_view name = "softmax";

  Tensor forward(Forward& f, const Tensor& x) const {
    const Tensor y = x.device().is_cuda() ? on_device(x, false) : on_cpu(x);
    f.save_output(y);
    return y;
  }

  void backward(Backward& b) const {
    const Tensor y = b.saved(0);
    const Tensor& g = b.grad();
    if (b.recording()) {
      b.add(0, y * (g - sum(g * y, {-1}, true)));
    } else {
      b.add(0, y.device().is_cuda() ? gradient_on_device(y, g, false) : gradient_on_cpu(y, g));
    }
  }

 private:
  static Tensor on_cpu(const Tensor& x) {
    return map_rows(
        name,
        []<class T>(const std::array<const T*, 1>& in, T* out, int64_t n) {
          const double total = detail::row_exponentials(in[0], out, n, detail::row_shift(in[0], n));
          const T scale = static_cast<T>(total == 0 ? 0 : 1 / total);
          for (int64_t i = 0; i < n; ++i) out[i] *= scale;
        },
        x);
  }
  static Tensor gradient_on_cpu(const Tensor& y, const Tensor& g) {
    return map_rows(
        name,
        []<class T>(const std::array<const T*, 2>& in, T* out, int64_t n) {
          const T* p = in[0];
          const T* q = in[1];
          T dot = 0;
#pragma omp simd reduction(+ : dot)
          for (int64_t i = 0; i < n; ++i) dot += p[i] * q[i];
          for (int64_t i = 0; i < n; ++i) out[i] = p[i] * (q[i] - dot);
        },
        y, g);
  }
};

// 1 for rows of probabilities, 0 for the zeros that rows of −∞ have instead: (…, C) → (…, 1).
Tensor live_rows(const Tensor& p) {
  return gt(sum(p.detach(), {-1}, true), 0.5).to(p.dtype());
}

// y = x − log Σ exp(x), gx = g − exp(y) Σ g; along the last dimension.
struct LogSoftmax {
  static constexpr std::string_view name = "log_softmax";

  Tensor forward(Forward& f, const Tensor& x) const {
    if (x.device().is_cuda()) {
      f.save(x);
      return on_device(x, true);
    }
    const Tensor y = on_cpu(x);
    f.save_output(y);
    return y;
  }

  void backward(Backward& b) const {
    const Tensor y = b.saved(0);  // on a device, x
    const Tensor& g = b.grad();
    if (b.recording()) {
      const Tensor p = softmax(y, -1);
      b.add(0, live_rows(p) * (g - p * sum(g, {-1}, true)));
    } else {
      b.add(0, y.device().is_cuda() ? gradient_on_device(y, g, true) : gradient_on_cpu(y, g));
    }
  }

 private:
  static Tensor on_cpu(const Tensor& x) {
    return map_rows(
        name,
        []<class T>(const std::array<const T*, 1>& in, T* out, int64_t n) {
          const double total = detail::row_logsumexp(in[0], n);
          const T shift = static_cast<T>(total == kLowest ? 0 : total);
          for (int64_t i = 0; i < n; ++i) out[i] = in[0][i] - shift;
        },
        x);
  }
  static Tensor gradient_on_cpu(const Tensor& y, const Tensor& g) {
    return map_rows(
        name,
        []<class T>(const std::array<const T*, 2>& in, T* out, int64_t n) {
          T total = 0;
#pragma omp simd reduction(+ : total)
          for (int64_t i = 0; i < n; ++i) total += in[1][i];
          if (detail::row_exponentials(in[0], out, n, T(0)) == 0) {
            std::fill(out, out + n, T(0));
            return;
          }
          for (int64_t i = 0; i < n; ++i) out[i] = in[1][i] - out[i] * total;
        },
        y, g);
  }
};

using Along = Tensor (*)(const Tensor&, int64_t);

Tensor plain_softmax(const Tensor& x, int64_t dim) {
  const Tensor e = exp(x);
  return e / sum(e, {dim}, true);
}
Tensor plain_log_softmax(const Tensor& x, int64_t dim) {
  return x - log(sum(exp(x), {dim}, true));
}

OpSample sample(std::string label, const Tensor& x, int64_t dim, Along op, Along plain) {
  return {std::move(label),
          {x},
          [op, dim](const TensorList& in) { return TensorList{op(in[0], dim)}; },
          [plain, dim](const TensorList& in) { return TensorList{plain(in[0], dim)}; }};
}

std::vector<OpSample> samples_of(Along op, Along plain) {
  std::vector<OpSample> list;
  for (const Shape& shape : {Shape{1}, Shape{5}, Shape{2, 3}, Shape{3, 0}, Shape{0, 3}}) {
    list.push_back(sample(to_string(shape), samples::normal(shape), -1, op, plain));
  }
  list.push_back(sample("first dimension", samples::normal({4, 3}), 0, op, plain));
  list.push_back(sample("middle", samples::normal({2, 3, 2}), 1, op, plain));
  list.push_back(sample("strided", samples::strided(samples::normal({3, 4})), 1, op, plain));
  return list;
}

OpInfo row(const char* name, const char* formula, Along op, Along plain) {
  return {.name = name,
          .formula = formula,
          .source = "",
          .samples = [op, plain] { return samples_of(op, plain); },
          .wrong_calls = {[op] {
                            op(samples::normal({2, 3}), 2);
                          },
                          [op] { op(samples::normal({}), 0); },
                          [op] {
                            op(samples::integers({2, 3}, 0, 5), 1);
                          }}};
}

const RegisterOp softmax_row{
    row("softmax", "y = exp(x) / Σ exp(x) along dim", softmax, plain_softmax)};
const RegisterOp log_softmax_row{
    row("log_softmax", "y = x − log Σ exp(x) along dim", log_softmax, plain_log_softmax)};

// The op along the last dimension, moved there and back when dim is another one.
template <class Op>
Tensor along(const Tensor& x, int64_t dim) {
  dim = normalize_dim(dim, x.rank(), Op::name);
  detail::check_floating(Op::name, x);
  if (dim == x.rank() - 1) return apply(Op{}, x);
  return transpose(apply(Op{}, transpose(x, dim, -1)), dim, -1);
}

}  // namespace

Tensor softmax(const Tensor& x, int64_t dim) {
  return along<Softmax>(x, dim);
}

Tensor log_softmax(const Tensor& x, int64_t dim) {
  return along<LogSoftmax>(x, dim);
}

}  // namespace tessera
