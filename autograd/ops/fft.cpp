#include "tessera/autograd/ops/fft.h"

#include "tessera/autograd/op.h"
#include "tessera/autograd/ops/pad.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/registry.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/kernels/fft.h"
#include "tessera/core/kernels/fft_cuda.h"
#include "tessera/core/kernels/strided.h"
#include "tessera/core/view.h"

namespace tessera {
namespace {

Tensor scaled_irfft(const Tensor& y, int64_t n, double ends, double middle);

// y_k = s_k F_k for the bins of a real row: s = `ends` where a bin is its own mirror image.
struct Rfft {
  static constexpr std::string_view name = "rfft";
  int64_t n;
  double ends;
  double middle;

  Tensor forward(Forward&, const Tensor& x) const {
    const Tensor source = kernels::contiguous(x);
    Shape shape = x.shape();
    shape.back() = n / 2 + 1;
    shape.push_back(2);
    const Tensor y = empty(shape, {x.dtype(), x.device()});
    if constexpr (kCuda) {
      if (x.device().is_cuda()) {
        kernels::rfft_cuda(source, y, n, ends, middle);
        return y;
      }
    }
    visit_floating(name, x.dtype(), [&]<class T>() {
      kernels::rfft_rows(source.data<T>(), y.data<T>(), x.numel() / n, n, ends, middle);
    });
    return y;
  }
  void backward(Backward& b) const { b.add(0, scaled_irfft(b.grad(), n, ends, middle / 2)); }
};

// x_j = Σ_k c_k s_k Re(y_k e^{2πi jk/n}), c = 1 at the ends and 2 in the middle.
struct Irfft {
  static constexpr std::string_view name = "irfft";
  int64_t n;
  double ends;
  double middle;

  Tensor forward(Forward&, const Tensor& y) const {
    const Tensor source = kernels::contiguous(y);
    Shape shape = y.shape();
    shape.pop_back();
    shape.back() = n;
    const Tensor x = empty(shape, {y.dtype(), y.device()});
    if constexpr (kCuda) {
      if (y.device().is_cuda()) {
        kernels::irfft_cuda(source, x, n, ends, middle);
        return x;
      }
    }
    visit_floating(name, y.dtype(), [&]<class T>() {
      kernels::irfft_rows(source.data<T>(), x.data<T>(), x.numel() / n, n, ends, middle);
    });
    return x;
  }
  void backward(Backward& b) const { b.add(0, apply(Rfft{n, ends, 2 * middle}, b.grad())); }
};

Tensor scaled_irfft(const Tensor& y, int64_t n, double ends, double middle) {
  return apply(Irfft{n, ends, middle}, y);
}

struct Fft {
  std::string_view name;
  bool inverse;
  double scale;

  Tensor forward(Forward&, const Tensor& x) const {
    const Tensor source = kernels::contiguous(x);
    const Tensor y = empty_like(x);
    const int64_t n = x.size(-2);
    if constexpr (kCuda) {
      if (x.device().is_cuda()) {
        kernels::fft_cuda(source, y, n, inverse, scale);
        return y;
      }
    }
    visit_floating(name, x.dtype(), [&]<class T>() {
      kernels::fft_rows(source.data<T>(), y.data<T>(), x.numel() / (2 * n), n, inverse, scale);
    });
    return y;
  }
  void backward(Backward& b) const { b.add(0, apply(Fft{name, !inverse, scale}, b.grad())); }
};

struct ComplexMul {
  static constexpr std::string_view name = "complex_mul";
  bool conjugate_b;

  Tensor forward(Forward& f, const Tensor& a, const Tensor& b) const {
    f.save(a, b);
    const Tensor y = empty(broadcast_shapes(a.shape(), b.shape(), name), {a.dtype(), a.device()});
    const Tensor heads[] = {views::select(y, -1, 0), real_parts(a), real_parts(b)};
    if constexpr (kCuda) {
      if (y.device().is_cuda()) {
        kernels::complex_mul_cuda(heads[0], heads[1], heads[2], conjugate_b);
        return y;
      }
    }
    const Tensor* operands[] = {&heads[0], &heads[1], &heads[2]};
    const kernels::StridedLoop loop(heads[0].shape(), operands);
    visit_floating(name, a.dtype(), [&]<class T>() {
      const T sign = conjugate_b ? T(-1) : T(1);
      loop.for_each_piece(kGrain / 2, [&](const int64_t* at, int64_t count) {
        T* to = y.data<T>() + at[0];
        const T* p = heads[1].data<T>() + at[1];
        const T* q = heads[2].data<T>() + at[2];
        for (int64_t i = 0; i < count; ++i) {
          const T* u = p + i * loop.row_stride(1);
          const T* v = q + i * loop.row_stride(2);
          T* z = to + i * loop.row_stride(0);
          z[0] = u[0] * v[0] - sign * u[1] * v[1];
          z[1] = u[1] * v[0] + sign * u[0] * v[1];
        }
      });
    });
    return y;
  }
  void backward(Backward& b) const {
    const Tensor& g = b.grad();
    const Tensor x = b.saved(0);
    const Tensor y = b.saved(1);
    if (b.needs(0)) b.add(0, sum_to(complex_mul(g, y, !conjugate_b), x.shape()));
    if (!b.needs(1)) return;
    const Tensor gy = conjugate_b ? complex_mul(x, g, true) : complex_mul(g, x, true);
    b.add(1, sum_to(gy, y.shape()));
  }

 private:
  // The first elements of the pairs; the second ones follow them in memory.
  static Tensor real_parts(const Tensor& x) {
    return views::select(x.stride(-1) == 1 ? x : kernels::contiguous(x), -1, 0);
  }
};

// Crops or pads dimension `dim` (−1 or −2) to `size`.
Tensor resized(const Tensor& x, int64_t dim, int64_t size) {
  const int64_t missing = size - x.size(dim);
  if (missing <= 0) return slice(x, dim, 0, size);
  return dim == -1 ? pad(x, {0, missing}) : pad(x, {0, 0, 0, missing});
}

void check_pairs(std::string_view op, const Tensor& x, int64_t rank) {
  check(x.rank() >= rank && x.size(-1) == 2, "{}: wants complex pairs (…, 2), got {}", op,
        x.shape());
}

void check_floating(std::string_view op, const Tensor& x) {
  check(is_floating(x.dtype()) && (x.device().is_cuda() || !is_half(x.dtype())),
        "{}: wants f32 or f64 on the CPU, got {}; convert with to(DType::f32)", op, x.dtype());
}

// ---- Rows of the registry -----------------------------------------------------------------------

template <class Function>
OpSample sample(const std::string& label, const TensorList& inputs, Function f) {
  return {label, inputs, [f](const TensorList& x) { return TensorList{f(x)}; }, {}};
}

const RegisterOp rfft_row{{
    .name = "rfft",
    .formula = "y_k = Σ_j x_j e^{−2πi jk/n}, k ≤ n/2",
    .source = "NumPy's conventions",
    .samples =
        [] {
          std::vector<OpSample> list;
          for (const int64_t n : {1, 2, 5, 8, 12, 17}) {
            list.push_back(sample(fmt::format("length {}", n), {samples::normal({2, n})},
                                  [](const TensorList& x) { return rfft(x[0]); }));
          }
          const Tensor x = samples::strided(samples::normal({3, 6}));
          for (const int64_t n : {4, 9}) {
            list.push_back(sample(fmt::format("6 to {}, strided", n), {x},
                                  [n](const TensorList& in) { return rfft(in[0], n); }));
          }
          list.push_back(sample("no rows", {samples::normal({0, 4})},
                                [](const TensorList& in) { return rfft(in[0]); }));
          return list;
        },
    .wrong_calls = {[] { rfft(samples::normal({})); },
                    [] {
                      rfft(samples::normal({2, 0}));
                    },
                    [] { rfft(samples::normal({4}), -1); },
                    [] { rfft(samples::integers({4}, 0, 3)); }},
}};

const RegisterOp irfft_row{{
    .name = "irfft",
    .formula = "x_j = 1/n Σ_k y_k e^{2πi jk/n} with y_{n−k} = ȳ_k",
    .source = "NumPy's conventions",
    .samples =
        [] {
          std::vector<OpSample> list;
          for (const int64_t n : {1, 2, 5, 8, 17}) {
            list.push_back(sample(fmt::format("length {}", n), {samples::normal({2, n / 2 + 1, 2})},
                                  [n](const TensorList& x) { return irfft(x[0], n); }));
          }
          const Tensor y = samples::strided(samples::normal({2, 4, 2}));
          for (const int64_t n : {0, 4, 11}) {
            list.push_back(sample(fmt::format("4 bins to {}, strided", n), {y},
                                  [n](const TensorList& in) { return irfft(in[0], n); }));
          }
          return list;
        },
    .wrong_calls = {[] { irfft(samples::normal({4})); },
                    [] {
                      irfft(samples::normal({1, 2}));
                    },
                    [] {
                      irfft(samples::normal({4, 3}));
                    },
                    [] {
                      irfft(samples::normal({4, 2}), -2);
                    }},
}};

std::vector<OpSample> complex_samples(Tensor (*f)(const Tensor&)) {
  std::vector<OpSample> list;
  for (const int64_t n : {1, 4, 6, 17}) {
    list.push_back(sample(fmt::format("length {}", n), {samples::normal({2, n, 2})},
                          [f](const TensorList& x) { return f(x[0]); }));
  }
  return list;
}

const RegisterOp fft_row{{
    .name = "fft",
    .formula = "y_k = Σ_j x_j e^{−2πi jk/n}",
    .source = "NumPy's conventions",
    .samples = [] { return complex_samples(fft); },
    .wrong_calls = {[] { fft(samples::normal({4})); },
                    [] {
                      fft(samples::normal({0, 2}));
                    },
                    [] {
                      fft(samples::normal({4, 3}));
                    }},
}};

const RegisterOp ifft_row{{
    .name = "ifft",
    .formula = "x_j = 1/n Σ_k y_k e^{2πi jk/n}",
    .source = "NumPy's conventions",
    .samples = [] { return complex_samples(ifft); },
    .wrong_calls = {[] { ifft(samples::normal({4})); }},
}};

const RegisterOp mul_row{{
    .name = "complex_mul",
    .formula = "y = a b or a b̄ on pairs (re, im)",
    .source = "",
    .samples =
        [] {
          std::vector<OpSample> list;
          for (const bool conjugate : {false, true}) {
            const auto f = [conjugate](const TensorList& x) {
              return complex_mul(x[0], x[1], conjugate);
            };
            list.push_back(
                sample("broadcast", {samples::normal({2, 1, 2}), samples::normal({3, 2}, 1)}, f));
            list.push_back(
                sample("strided",
                       {samples::strided(samples::normal({3, 2})), samples::normal({3, 2}, 1)}, f));
            list.push_back(sample("size 0", {samples::normal({0, 2}), samples::normal({2}, 1)}, f));
          }
          return list;
        },
    .wrong_calls = {[] { complex_mul(samples::normal({3}), samples::normal({3})); },
                    [] {
                      complex_mul(samples::normal({3, 2}), samples::normal({2, 2}));
                    },
                    [] { complex_mul(samples::normal({2}), samples::normal({2}).to(DType::f32)); }},
}};

const RegisterOp convolve_row{{
    .name = "fft_convolve",
    .formula = "y_i = Σ_{j ≤ i} h_j x_{i−j}",
    .source = "",
    .samples =
        [] {
          const auto f = [](const TensorList& x) { return fft_convolve(x[0], x[1]); };
          return std::vector<OpSample>{
              sample("one filter for all rows",
                     {samples::normal({2, 3, 6}), samples::normal({6}, 1)}, f),
              sample("a filter per channel, shorter",
                     {samples::normal({2, 3, 7}), samples::normal({3, 2}, 1)}, f),
              sample("longer than the input", {samples::normal({4}), samples::normal({9}, 1)}, f),
              sample("no rows", {samples::normal({0, 4}), samples::normal({4}, 1)}, f)};
        },
    .wrong_calls = {[] {
                      fft_convolve(samples::normal({2, 4}), samples::normal({3, 4}));
                    },
                    [] { fft_convolve(samples::normal({4}), samples::normal({0})); },
                    [] { fft_convolve(samples::normal({}), samples::normal({4})); }},
}};

}  // namespace

Tensor rfft(const Tensor& x, int64_t n) {
  check(x.rank() >= 1, "rfft: x must have at least one dimension, got a scalar");
  check_floating("rfft", x);
  if (n == 0) n = x.size(-1);
  check(n >= 1, "rfft: the length must be at least 1, got {} for x {}", n, x.shape());
  return apply(Rfft{n, 1, 1}, resized(x, -1, n));
}

Tensor irfft(const Tensor& y, int64_t n) {
  check_pairs("irfft", y, 2);
  check_floating("irfft", y);
  if (n == 0) n = 2 * (y.size(-2) - 1);
  check(n >= 1, "irfft: the length must be at least 1, got {} for y {}", n, y.shape());
  const double scale = 1 / static_cast<double>(n);
  return scaled_irfft(resized(y, -2, n / 2 + 1), n, scale, scale);
}

Tensor fft(const Tensor& x) {
  check_pairs("fft", x, 2);
  check(x.size(-2) >= 1, "fft: the length must be at least 1, got x {}", x.shape());
  return apply(Fft{"fft", false, 1}, x);
}

Tensor ifft(const Tensor& x) {
  check_pairs("ifft", x, 2);
  check(x.size(-2) >= 1, "ifft: the length must be at least 1, got x {}", x.shape());
  return apply(Fft{"ifft", true, 1 / static_cast<double>(x.size(-2))}, x);
}

Tensor complex_mul(const Tensor& a, const Tensor& b, bool conjugate_b) {
  check_pairs("complex_mul", a, 1);
  check_pairs("complex_mul", b, 1);
  check(a.dtype() == b.dtype() && a.device() == b.device(),
        "complex_mul: a is {} on {}, but b is {} on {}; convert one with to()", a.dtype(),
        a.device(), b.dtype(), b.device());
  return apply(ComplexMul{conjugate_b}, a, b);
}

Tensor fft_convolve(const Tensor& x, const Tensor& h) {
  check(x.rank() >= 1 && h.rank() >= 1 && x.size(-1) >= 1 && h.size(-1) >= 1,
        "fft_convolve: wants x (…, n) and h (…, m) with n, m ≥ 1, got {} and {}", x.shape(),
        h.shape());
  check(x.dtype() == h.dtype() && x.device() == h.device(),
        "fft_convolve: x is {} on {}, but h is {} on {}; convert one with to()", x.dtype(),
        x.device(), h.dtype(), h.device());
  // The spectra of halves stay in f32.
  if (is_half(x.dtype())) {
    check_floating("fft_convolve", x);
    return fft_convolve(x.to(DType::f32), h.to(DType::f32)).to(x.dtype());
  }
  Shape rows_x = x.shape();
  Shape rows_h = h.shape();
  rows_x.pop_back();
  rows_h.pop_back();
  broadcast_shapes(rows_x, rows_h, "fft_convolve");
  const int64_t n = x.size(-1);
  const Tensor filter = slice(h, -1, 0, std::min(n, h.size(-1)));  // later taps reach no output
  const int64_t length = kernels::fast_fft_length(n + filter.size(-1) - 1);
  const Tensor product = complex_mul(rfft(x, length), rfft(filter, length));
  return slice(irfft(product, length), -1, 0, n);
}

}  // namespace tessera
