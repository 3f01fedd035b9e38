#include "tessera/autograd/ops/reduce.h"

#include "tessera/autograd/op.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/comparison.h"
#include "tessera/autograd/ops/elementwise.h"
#include "tessera/autograd/ops/indexing.h"
#include "tessera/autograd/ops/reduce_cuda.h"
#include "tessera/autograd/ops/rows.h"
#include "tessera/autograd/ops/softmax_rows.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/registry.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"

namespace tessera {
namespace {

using detail::Halves;
using detail::RowView;

// fn(x, y, r) with the r-th row of x (R, N) and the r-th element of y (R).
template <class T, class Fn>
Tensor reduce_rows(const Tensor& x, const Fn& fn) {
  const Tensor from = kernels::contiguous(x);
  const Tensor y = empty({x.size(0)}, {x.dtype(), x.device()});
  const T* in = from.data<T>();
  T* out = y.data<T>();
  const int64_t n = x.size(1);
  detail::parallel_rows(x.size(0), n,
                        [&](int64_t r) { out[r] = static_cast<T>(fn(in + r * n, n)); });
  return y;
}

// gx (R, N) from fn(row of x, row of gx, r).
template <class T, class Fn>
Tensor spread_rows(const Tensor& x, const Fn& fn) {
  const Tensor from = kernels::contiguous(x);
  const Tensor gx = empty_like(from);
  const T* in = from.data<T>();
  T* out = gx.data<T>();
  const int64_t n = x.size(1);
  detail::parallel_rows(x.size(0), n, [&](int64_t r) { fn(in + r * n, out + r * n, r); });
  return gx;
}

struct Moments {
  double mean = 0;
  double squares = 0;  // Σ (x − mean)²
};

template <class T>
Moments moments(const T* x, int64_t n) {
  double total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t i = 0; i < n; ++i) total += static_cast<double>(x[i]);
  const double mean = total / static_cast<double>(n);
  double squares = 0;
#pragma omp simd reduction(+ : squares)
  for (int64_t i = 0; i < n; ++i) {
    const double d = static_cast<double>(x[i]) - mean;
    squares += d * d;
  }
  return {mean, squares};
}

// y = Σ (x − m)² / (n − c), gx = 2 g (x − m) / (n − c); with a root y = √…, gx = g (x − m) /
// ((n − c) y).
template <bool kRoot>
struct Variance {
  static constexpr std::string_view name = kRoot ? "stddev" : "var";
  int64_t correction;

  double divisor(int64_t n) const {
    return static_cast<double>(std::max<int64_t>(0, n - correction));
  }

  Tensor forward(Forward&, const Tensor& x) const {
    if constexpr (kCuda) {
      if (x.device().is_cuda()) {
        return detail::variance_rows_cuda(x, divisor(x.size(1)), kRoot);
      }
    }
    return visit_floating(name, x.dtype(), [&]<class T>() {
      return reduce_rows<T>(x, [&](const T* row, int64_t n) {
        const double variance = moments(row, n).squares / divisor(n);
        return kRoot ? std::sqrt(variance) : variance;
      });
    });
  }
  void backward(Backward& b) const {
    const Tensor x = b.input(0);
    if constexpr (kCuda) {
      if (x.device().is_cuda()) {
        b.add(0, detail::variance_backward_cuda(x, b.grad(), divisor(x.size(1)), kRoot));
        return;
      }
    }
    const Tensor grad = kernels::contiguous(b.grad());
    const int64_t n = x.size(1);
    visit_floating(name, x.dtype(), [&]<class T>() {
      const T* g = grad.data<T>();
      b.add(0, spread_rows<T>(x, [&](const T* row, T* out, int64_t r) {
              const Moments m = moments(row, n);
              double scale = 2 / divisor(n);
              if (kRoot) scale = m.squares == 0 ? 0 : 1 / std::sqrt(m.squares * divisor(n));
              scale *= static_cast<double>(g[r]);
              for (int64_t i = 0; i < n; ++i) {
                out[i] = static_cast<T>(scale * (static_cast<double>(row[i]) - m.mean));
              }
            }));
    });
  }
  Tensor definition(const TensorList& inputs) const {
    const Tensor& x = inputs[0];
    const Tensor deviation = x - mean(x, {1}, true);
    const Tensor variance = sum(square(deviation), {1}) / divisor(x.size(1));
    return kRoot ? sqrt(variance) : variance;
  }
};

// y = m + log Σ exp(x − m) with m = max x, gx = g exp(x − y).
struct LogSumExp {
  static constexpr std::string_view name = "logsumexp";

  // NaN without a NaN among x is what ∞ − ∞ gives.
  template <class T>
  static double row_value(const T* x, int64_t n) {
    const double y = detail::row_logsumexp(x, n);
    if (!std::isnan(y) || std::any_of(x, x + n, detail::is_nan<T>)) return y;
    return std::numeric_limits<double>::infinity();
  }

  static Tensor values(const Tensor& x) {
    if constexpr (kCuda) {
      if (x.device().is_cuda()) return detail::logsumexp_rows_cuda(x);
    }
    return visit_floating(name, x.dtype(), [&]<class T>() {
      return reduce_rows<T>(x, [](const T* row, int64_t n) { return row_value(row, n); });
    });
  }

  Tensor forward(Forward& f, const Tensor& x) const {
    const Tensor y = values(x);
    f.save(x);
    f.save_output(y);
    return y;
  }

  void backward(Backward& b) const {
    const Tensor x = b.saved(0);
    const Tensor y = b.saved(1);
    if (b.recording()) {
      const Tensor infinite = unsqueeze(eq(abs(y), INFINITY), 1);
      const Tensor log_share = masked_fill(x - unsqueeze(y, 1), infinite, 0);
      const Tensor share = masked_fill(exp(log_share), infinite, 0);
      b.add(0, unsqueeze(b.grad(), 1) * share);
      return;
    }
    if constexpr (kCuda) {
      if (x.device().is_cuda()) {
        b.add(0, detail::logsumexp_backward_cuda(x, y, b.grad()));
        return;
      }
    }
    const Tensor grad = kernels::contiguous(b.grad());
    visit_floating(name, x.dtype(), [&]<class T>() {
      const T* g = grad.data<T>();
      const T* out = y.data<T>();
      const int64_t n = x.size(1);
      b.add(0, spread_rows<T>(x, [&](const T* row, T* gx, int64_t r) {
              if (std::isinf(out[r])) {
                std::fill(gx, gx + n, T{0});
                return;
              }
#pragma omp simd
              for (int64_t i = 0; i < n; ++i) gx[i] = g[r] * math::exp(row[i] - out[r]);
            }));
    });
  }
};

// y = √Σ x², gx = g x / y, 0 where y = 0.
struct Norm2 {
  static constexpr std::string_view name = "norm";

  static Tensor values(const Tensor& x) {
    if constexpr (kCuda) {
      if (x.device().is_cuda()) return detail::norm_rows_cuda(x);
    }
    return visit_floating(name, x.dtype(), [&]<class T>() {
      return reduce_rows<T>(x, [](const T* row, int64_t n) {
        double total = 0;
#pragma omp simd reduction(+ : total)
        for (int64_t i = 0; i < n; ++i) {
          total += static_cast<double>(row[i]) * static_cast<double>(row[i]);
        }
        return std::sqrt(total);
      });
    });
  }

  Tensor forward(Forward& f, const Tensor& x) const {
    const Tensor y = values(x);
    f.save(x);
    f.save_output(y);
    return y;
  }
  void backward(Backward& b) const {
    const Tensor x = b.saved(0);
    const Tensor y = b.saved(1);
    const Tensor safe = masked_fill(y, eq(y, 0), 1);  // x is 0 there
    b.add(0, x * unsqueeze(b.grad() / safe, 1));
  }
};

// Index of the first best entry of every row; NaN is better than any number.
Tensor best_rows(const Tensor& x, bool largest, std::string_view op) {
  check(x.size(1) > 0 || x.size(0) == 0, "{}: over a dimension of size 0", op);
  if constexpr (kCuda) {
    if (x.device().is_cuda()) return detail::best_rows_cuda(x, largest);
  }
  const Tensor from = kernels::contiguous(x.detach());
  const Tensor index = empty({x.size(0)}, {DType::i64, x.device()});
  const int64_t n = x.size(1);
  int64_t* out = index.data<int64_t>();
  detail::visit_comparable(x.dtype(), [&]<class T>() {
    const T* in = from.data<T>();
    detail::parallel_rows(x.size(0), n, [&](int64_t r) {
      const T* row = in + r * n;
      int64_t best = 0;
      for (int64_t i = 1; i < n; ++i) {
        const bool better = largest ? row[i] > row[best] : row[i] < row[best];
        if (better || (detail::is_nan(row[i]) && !detail::is_nan(row[best]))) best = i;
      }
      out[r] = best;
    });
  });
  return index;
}

ValuesIndices extremum(const Tensor& x, const Shape& dims, bool keep_dims, bool largest,
                       std::string_view op) {
  const RowView view(x, dims, op, Halves::kept_on_cuda);
  const Tensor index = best_rows(view.matrix(), largest, op);
  const Tensor values = gather(view.matrix(), 1, unsqueeze(index, 1));
  return {view.reduced(values, keep_dims), view.reduced(index, keep_dims)};
}

Tensor best_index(const Tensor& x, int64_t dim, bool keep_dims, bool largest, std::string_view op) {
  NoGrad off;
  const RowView view = detail::rows_along(x, dim, op, Halves::kept_on_cuda);
  return view.reduced(best_rows(view.matrix(), largest, op), keep_dims);
}

using Reduction = std::function<Tensor(const Tensor&, const Shape& dims, bool keep_dims)>;

// A reduction over the dims and shapes that every one must take; nonempty: never over size 0.
std::vector<OpSample> reduction_samples(const Reduction& f, const Reduction& definition = {},
                                        bool nonempty = false) {
  std::vector<OpSample> list;
  auto add = [&](const std::string& label, const Tensor& x, const Shape& dims, bool keep_dims) {
    auto run = [=](const Reduction& g) {
      return [=](const TensorList& in) { return TensorList{g(in[0], dims, keep_dims)}; };
    };
    list.push_back({label, {x}, run(f), {}});
    if (definition) list.back().definition = run(definition);
  };
  const Tensor x = samples::normal({2, 3, 4});
  for (const Shape& dims : {Shape{}, Shape{0}, Shape{1}, Shape{-1}, Shape{0, 2}, Shape{2, 1}}) {
    add(fmt::format("(2, 3, 4) over {}", dims), x, dims, false);
    add(fmt::format("(2, 3, 4) over {}, kept", dims), x, dims, true);
  }
  add("strided", samples::strided(samples::normal({3, 4}, 1)), {1}, false);
  add("size 1", samples::normal({3, 1}, 2), {0}, false);
  add("a scalar", samples::normal({}, 3), {}, false);
  add("no rows", samples::normal({0, 3}), {1}, false);
  if (!nonempty) add("rows of size 0", samples::normal({2, 0}), {1}, false);
  return list;
}

std::vector<std::function<void()>> wrong_dims(const Reduction& f) {
  return {[f] { f(samples::normal({2}), {1}, false); },
          [f] {
            f(samples::normal({2, 2}), {0, -2}, false);
          }};
}

OpInfo reduction_row(const char* name, const char* formula, const Reduction& f,
                     const Reduction& definition = {}, bool nonempty = false) {
  return {.name = name,
          .formula = formula,
          .source = "",
          .samples = [=] { return reduction_samples(f, definition, nonempty); },
          .wrong_calls = wrong_dims(f)};
}

template <bool kRoot>
Tensor variance(const Tensor& x, const Shape& dims, int64_t correction, bool keep_dims) {
  using Op = Variance<kRoot>;
  check(correction >= 0, "{}: correction {} is negative", Op::name, correction);
  const RowView view(is_integral(x.dtype()) ? detail::as_floating(x) : x, dims, Op::name,
                     Halves::kept_on_cuda);
  return view.reduced(apply(Op{correction}, view.matrix()), keep_dims);
}

template <bool kRoot>
OpInfo variance_row(const char* name, const char* formula) {
  auto with = [](int64_t correction) {
    return [=](const Tensor& x, const Shape& dims, bool keep) {
      return variance<kRoot>(x, dims, correction, keep);
    };
  };
  auto plain = [](const Tensor& x, const Shape& dims, bool keep) {
    const Tensor v = mean(square(x - mean(x, dims, true)), dims, keep);
    return kRoot ? sqrt(v) : v;
  };
  return {.name = name,
          .formula = formula,
          .source = "",
          .samples =
              [=] {
                std::vector<OpSample> list;
                for (OpSample& s : reduction_samples(with(0), plain, true)) {
                  // Not defined at a single entry, where the root has no second derivative.
                  const bool single = s.label == "a scalar";
                  if (!kRoot || !single) list.push_back(std::move(s));
                }
                list.push_back(
                    {"correction 1",
                     {samples::normal({2, 4})},
                     [=](const TensorList& in) { return TensorList{with(1)(in[0], {1}, false)}; },
                     {}});
                return list;
              },
          .wrong_calls = {[=] { with(-1)(samples::normal({2}), {}, false); },
                          [=] { with(0)(samples::normal({2}), {1}, false); }}};
}

Reduction without_dims(ValuesIndices (*f)(const Tensor&, int64_t, bool)) {
  return [f](const Tensor& x, const Shape& dims, bool keep) {
    Tensor y = x;
    for (int64_t d : normalize_dims(dims, x.rank(), "max")) y = f(y, d, true).values;
    Shape shape;
    const Shape gone = normalize_dims(dims, x.rank(), "max");
    for (int64_t d = 0; d < x.rank(); ++d) {
      if (std::find(gone.begin(), gone.end(), d) == gone.end()) shape.push_back(x.shape()[d]);
    }
    return keep ? y : reshape(y, shape);
  };
}

OpInfo extremum_row(const char* name, const char* formula,
                    ValuesIndices (*f)(const Tensor&, int64_t, bool)) {
  return {.name = name,
          .formula = formula,
          .source = "",
          .samples = [=] { return reduction_samples(without_dims(f), {}, true); },
          .wrong_calls = {[=] { f(samples::normal({2}), 1, false); },
                          [=] {
                            f(samples::normal({2, 0}), 1, false);
                          }}};
}

OpInfo index_row(const char* name, const char* formula, Tensor (*f)(const Tensor&, int64_t, bool)) {
  return {.name = name,
          .formula = formula,
          .source = "",
          .orders = 0,
          .samples =
              [=] {
                return std::vector<OpSample>{
                    {"(3, 4)",
                     {samples::normal({3, 4})},
                     [=](const TensorList& x) { return TensorList{f(x[0], 1, false)}; },
                     {}}};
              },
          .wrong_calls = {[=] { f(samples::normal({2}), 1, false); },
                          [=] { f(samples::normal({0}), 0, false); }}};
}

const RegisterOp mean_row{reduction_row("mean", "y = Σ x / n over dims", mean, {}, true)};
const RegisterOp var_row{variance_row<false>("var", "y = Σ (x − mean)² / (n − correction)")};
const RegisterOp stddev_row{variance_row<true>("stddev", "y = √var(x)")};
const RegisterOp max_row{extremum_row("max", "y = max x along dim, and its index", max)};
const RegisterOp min_row{extremum_row("min", "y = min x along dim, and its index", min)};
const RegisterOp amax_row{
    reduction_row("amax", "y = max x over dims", amax, without_dims(max), true)};
const RegisterOp amin_row{
    reduction_row("amin", "y = min x over dims", amin, without_dims(min), true)};
const RegisterOp argmax_row{index_row("argmax", "index of the first greatest entry", argmax)};
const RegisterOp argmin_row{index_row("argmin", "index of the first least entry", argmin)};
const RegisterOp prod_row{reduction_row("prod", "y = Π x over dims", prod)};
const RegisterOp logsumexp_row{reduction_row(
    "logsumexp", "y = log Σ exp x over dims", logsumexp,
    [](const Tensor& x, const Shape& dims, bool keep) { return log(sum(exp(x), dims, keep)); })};

const RegisterOp norm_row{{
    .name = "norm",
    .formula = "y = (Σ |x|^p)^(1/p), p = 1, 2 or ∞",
    .source = "",
    .samples =
        [] {
          std::vector<OpSample> list;
          for (double p : {1.0, 2.0, double{INFINITY}}) {
            auto f = [p](const Tensor& x, const Shape& dims, bool keep) {
              return norm(x, p, dims, keep);
            };
            for (OpSample& s : reduction_samples(f, {}, true)) {
              s.label += fmt::format(", p {}", p);
              list.push_back(std::move(s));
            }
          }
          return list;
        },
    .wrong_calls = {[] { norm(samples::normal({2}), 3); },
                    [] { norm(samples::normal({2}), 2, {1}); }},
}};

const RegisterOp count_row{{
    .name = "count_nonzero",
    .formula = "how many entries over dims are not zero",
    .source = "",
    .orders = 0,
    .samples = [] { return reduction_samples(count_nonzero); },
    .wrong_calls = wrong_dims(count_nonzero),
}};

}  // namespace

Tensor mean(const Tensor& x, const Shape& dims, bool keep_dims) {
  const Shape over = normalize_dims(dims, x.rank(), "mean");
  double count = 1;
  for (int64_t d : over) count *= static_cast<double>(x.shape()[d]);
  const Tensor full = detail::as_floating(x);  // a half would round the sum
  const Tensor y = sum(full, over, keep_dims) * (1 / count);
  return is_half(x.dtype()) ? y.to(x.dtype()) : y;
}

Tensor var(const Tensor& x, const Shape& dims, int64_t correction, bool keep_dims) {
  return variance<false>(x, dims, correction, keep_dims);
}
Tensor stddev(const Tensor& x, const Shape& dims, int64_t correction, bool keep_dims) {
  return variance<true>(x, dims, correction, keep_dims);
}

ValuesIndices max(const Tensor& x, int64_t dim, bool keep_dims) {
  return extremum(x, {normalize_dim(dim, x.rank(), "max")}, keep_dims, true, "max");
}
ValuesIndices min(const Tensor& x, int64_t dim, bool keep_dims) {
  return extremum(x, {normalize_dim(dim, x.rank(), "min")}, keep_dims, false, "min");
}
Tensor amax(const Tensor& x, const Shape& dims, bool keep_dims) {
  return extremum(x, dims, keep_dims, true, "amax").values;
}
Tensor amin(const Tensor& x, const Shape& dims, bool keep_dims) {
  return extremum(x, dims, keep_dims, false, "amin").values;
}
Tensor argmax(const Tensor& x, int64_t dim, bool keep_dims) {
  return best_index(x, dim, keep_dims, true, "argmax");
}
Tensor argmin(const Tensor& x, int64_t dim, bool keep_dims) {
  return best_index(x, dim, keep_dims, false, "argmin");
}

// Halves are multiplied with halves: products only, so the gradient needs no division.
Tensor prod(const Tensor& x, const Shape& dims, bool keep_dims) {
  const RowView view(x, dims, "prod");
  Tensor y = view.matrix();
  if (view.size() == 0)
    return view.reduced(ones({view.rows()}, {y.dtype(), y.device()}), keep_dims);
  while (y.size(1) > 1) {
    const int64_t half = y.size(1) / 2;
    const Tensor pairs = slice(y, 1, 0, half) * slice(y, 1, half, 2 * half);
    y = y.size(1) % 2 == 0 ? pairs : concat({pairs, slice(y, 1, 2 * half)}, 1);
  }
  return view.reduced(y, keep_dims);
}

Tensor logsumexp(const Tensor& x, const Shape& dims, bool keep_dims) {
  const RowView view(is_integral(x.dtype()) ? detail::as_floating(x) : x, dims, "logsumexp");
  return view.reduced(apply(LogSumExp{}, view.matrix()), keep_dims);
}

Tensor norm(const Tensor& x, double p, const Shape& dims, bool keep_dims) {
  check(p == 1 || p == 2 || p == INFINITY, "norm: p = {}; use 1, 2 or infinity", p);
  const RowView view(is_integral(x.dtype()) ? detail::as_floating(x) : x, dims, "norm");
  if (p == 2) return view.reduced(apply(Norm2{}, view.matrix()), keep_dims);
  const Tensor size = abs(view.matrix());
  return view.reduced(p == 1 ? sum(size, {1}) : amax(size, {1}), keep_dims);
}

Tensor count_nonzero(const Tensor& x, const Shape& dims, bool keep_dims) {
  return sum(ne(x.detach(), 0), normalize_dims(dims, x.rank(), "count_nonzero"), keep_dims);
}

}  // namespace tessera
