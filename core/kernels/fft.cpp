#include "tessera/core/kernels/fft.h"

#include <array>
#include <cmath>
#include <map>
#include <memory>
#include <mutex>
#include <numbers>
#include <vector>

#include "tessera/core/parallel.h"

namespace tessera::kernels {
namespace {

template <class T>
struct Complex {
  T re = 0;
  T im = 0;
};
template <class T>
Complex<T> operator+(Complex<T> a, Complex<T> b) {
  return {a.re + b.re, a.im + b.im};
}
template <class T>
Complex<T> operator-(Complex<T> a, Complex<T> b) {
  return {a.re - b.re, a.im - b.im};
}
template <class T>
Complex<T> operator*(Complex<T> a, Complex<T> b) {
  return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
template <class T>
Complex<T> conj(Complex<T> a) {
  return {a.re, -a.im};
}
template <class T>
using Row = std::vector<Complex<T>>;

// Complex values with real and imaginary parts apart, as vector registers want them.
template <class T>
struct Split {
  T* re;
  T* im;
  Complex<T> operator[](int64_t k) const { return {re[k], im[k]}; }
  void set(int64_t k, Complex<T> value) const {
    re[k] = value.re;
    im[k] = value.im;
  }
};

// e^{−2πi k/n}
template <class T>
Complex<T> root(int64_t k, int64_t n) {
  const double angle = 2 * std::numbers::pi * static_cast<double>(k % n) / static_cast<double>(n);
  return {static_cast<T>(std::cos(angle)), static_cast<T>(-std::sin(angle))};
}

// The transform of P values in place; `roots` holds e^{−2πi k/P}.
template <int P, class T>
inline void butterfly(std::array<Complex<T>, P>& a, const Complex<T>* roots) {
  if constexpr (P == 2) {
    a = {a[0] + a[1], a[0] - a[1]};
  } else if constexpr (P == 4) {
    const Complex<T> s = a[0] + a[2];
    const Complex<T> d = a[0] - a[2];
    const Complex<T> t = a[1] + a[3];
    const Complex<T> u{a[1].im - a[3].im, a[3].re - a[1].re};  // −i (a1 − a3)
    a = {s + t, d + u, s - t, d - u};
  } else {  // odd: pairs k and P − k share their cosines and sines
    std::array<Complex<T>, P> y;
    y[0] = a[0];
#pragma GCC unroll 16
    for (int k = 1; k < P; ++k) y[0] = y[0] + a[k];
#pragma GCC unroll 16
    for (int r = 1; r <= P / 2; ++r) {
      Complex<T> even = a[0];
      Complex<T> odd;
#pragma GCC unroll 16
      for (int k = 1; k <= P / 2; ++k) {
        const Complex<T> w = roots[r * k % P];
        const Complex<T> sum = a[k] + a[P - k];
        const Complex<T> difference = a[k] - a[P - k];
        even = {even.re + w.re * sum.re, even.im + w.re * sum.im};
        odd = {odd.re - w.im * difference.im, odd.im + w.im * difference.re};
      }
      y[r] = even + odd;
      y[P - r] = even - odd;
    }
    a = y;
  }
}

template <class T>
struct Stage {
  int64_t radix;
  int64_t length;   // radix · m: what is left to transform
  int64_t stride;   // how many interleaved transforms of it there are
  Row<T> twiddles;  // (m, radix − 1): e^{−2πi j r/length}
  Row<T> roots;
};

// One step of Stockham's algorithm, x → y.
template <int P, class T>
void run_stage(const Stage<T>& stage, Split<T> x, Split<T> y) {
  const int64_t m = stage.length / P;
  const int64_t s = stage.stride;
  for (int64_t j = 0; j < m; ++j) {
    const Complex<T>* w = stage.twiddles.data() + j * (P - 1);
#pragma omp simd
    for (int64_t q = 0; q < s; ++q) {
      std::array<Complex<T>, P> a;
#pragma GCC unroll 16
      for (int k = 0; k < P; ++k) a[k] = x[q + s * (j + m * k)];
      butterfly<P>(a, stage.roots.data());
      y.set(q + s * P * j, a[0]);
#pragma GCC unroll 16
      for (int r = 1; r < P; ++r) y.set(q + s * (P * j + r), a[r] * w[r - 1]);
    }
  }
}

template <class T>
void run_stage(const Stage<T>& stage, Split<T> x, Split<T> y) {
  switch (stage.radix) {
    case 2:
      return run_stage<2>(stage, x, y);
    case 3:
      return run_stage<3>(stage, x, y);
    case 4:
      return run_stage<4>(stage, x, y);
    case 5:
      return run_stage<5>(stage, x, y);
    case 7:
      return run_stage<7>(stage, x, y);
    case 11:
      return run_stage<11>(stage, x, y);
    default:
      return run_stage<13>(stage, x, y);
  }
}

// The radices whose product is n; empty when a prime factor is too large (and for n = 1).
std::vector<int64_t> radices(int64_t n) {
  std::vector<int64_t> list;
  for (int64_t p : {4, 2, 3, 5, 7, 11, 13}) {
    for (; n % p == 0; n /= p) list.push_back(p);
  }
  return n == 1 ? list : std::vector<int64_t>();
}

// What a transform of length n needs; built once and shared.
template <class T>
class Plan {
 public:
  explicit Plan(int64_t n);
  // Transforms a[0 … n) in place; `a` and `b` have room() values each.
  void run(Split<T> a, Split<T> b) const;
  int64_t room() const { return chirp_ ? inner_->n_ : n_; }
  const Row<T>& half_roots() const { return half_roots_; }  // e^{−2πi k/2n}, k ≤ n

 private:
  void build_chirp();
  void run_chirp(Split<T> a, Split<T> b) const;

  int64_t n_;
  std::vector<Stage<T>> stages_;
  Row<T> half_roots_;
  bool chirp_ = false;
  Row<T> chirp_row_;     // e^{−πi k²/n}
  Row<T> chirp_filter_;  // transform of its conjugate, wrapped around, over the length
  std::shared_ptr<const Plan> inner_;
};

// Plans are kept; when there are many, all are forgotten (those in use live on).
template <class T>
std::shared_ptr<const Plan<T>> plan_of(int64_t n) {
  static std::mutex mutex;
  static std::map<int64_t, std::shared_ptr<const Plan<T>>> plans;
  {
    std::lock_guard lock(mutex);
    if (auto found = plans.find(n); found != plans.end()) return found->second;
  }
  auto plan = std::make_shared<const Plan<T>>(n);
  std::lock_guard lock(mutex);
  if (plans.size() >= 64) plans.clear();
  return plans.try_emplace(n, std::move(plan)).first->second;
}

template <class T>
Plan<T>::Plan(int64_t n) : n_(n) {
  for (int64_t k = 0; k <= n; ++k) half_roots_.push_back(root<T>(k, 2 * n));
  const std::vector<int64_t> factors = radices(n);
  if (factors.empty() && n > 1) build_chirp();
  int64_t length = n;
  for (int64_t p : factors) {
    Stage<T> stage{p, length, n / length, {}, {}};
    for (int64_t j = 0; j < length / p; ++j) {
      for (int64_t r = 1; r < p; ++r) stage.twiddles.push_back(root<T>(j * r, length));
    }
    for (int64_t k = 0; k < p; ++k) stage.roots.push_back(root<T>(k, p));
    stages_.push_back(std::move(stage));
    length /= p;
  }
}

// Bluestein: jk = (j² + k² − (k − j)²) / 2 turns the transform into a convolution with a chirp.
template <class T>
void Plan<T>::build_chirp() {
  chirp_ = true;
  int64_t m = 1;
  while (m < 2 * n_ - 1) m *= 2;
  inner_ = plan_of<T>(m);
  for (int64_t k = 0; k < n_; ++k) chirp_row_.push_back(root<T>(k * k % (2 * n_), 2 * n_));
  std::vector<T> values(static_cast<size_t>(4 * m));
  const Split<T> filter{values.data(), values.data() + m};
  const auto scale = static_cast<T>(1 / static_cast<double>(m));
  for (int64_t k = 0; k < n_; ++k) {
    const Complex<T> w = chirp_row_[static_cast<size_t>(k)];
    filter.set(k, {w.re * scale, -w.im * scale});
    filter.set((m - k) % m, filter[k]);
  }
  inner_->run(filter, {values.data() + 2 * m, values.data() + 3 * m});
  for (int64_t k = 0; k < m; ++k) chirp_filter_.push_back(filter[k]);
}

template <class T>
void Plan<T>::run_chirp(Split<T> a, Split<T> b) const {
  const int64_t m = inner_->n_;
  for (int64_t k = 0; k < n_; ++k) a.set(k, a[k] * chirp_row_[static_cast<size_t>(k)]);
  for (int64_t k = n_; k < m; ++k) a.set(k, {});
  inner_->run(a, b);
  // The inverse transform is the transform of the conjugate, conjugated.
  for (int64_t k = 0; k < m; ++k) a.set(k, conj(a[k] * chirp_filter_[static_cast<size_t>(k)]));
  inner_->run(a, b);
  for (int64_t k = 0; k < n_; ++k) a.set(k, conj(a[k]) * chirp_row_[static_cast<size_t>(k)]);
}

template <class T>
void Plan<T>::run(Split<T> a, Split<T> b) const {
  if (chirp_) return run_chirp(a, b);
  Split<T> from = a;
  Split<T> to = b;
  for (const Stage<T>& stage : stages_) {
    run_stage(stage, from, to);
    std::swap(from, to);
  }
  if (from.re == a.re) return;
  std::copy(from.re, from.re + n_, a.re);
  std::copy(from.im, from.im + n_, a.im);
}

// fn(row, a, transform) for every row: `a` has the plan's room, transform() runs the plan on it.
template <class T, class Fn>
void for_each_row(const Plan<T>& plan, int64_t rows, int64_t n, const Fn& fn) {
  const int64_t grain = std::max<int64_t>(1, kGrain / n);
  parallel_for((rows + grain - 1) / grain, rows * n * 8, [&](int64_t piece) {
    // A few cache lines between the four arrays keep powers of two out of the same cache sets.
    const int64_t pitch = plan.room() + 48;
    std::vector<T> values(static_cast<size_t>(4 * pitch));
    const Split<T> a{values.data(), values.data() + pitch};
    const Split<T> b{values.data() + 2 * pitch, values.data() + 3 * pitch};
    const auto transform = [&] { plan.run(a, b); };
    for (int64_t r = piece * grain; r < std::min(rows, (piece + 1) * grain); ++r) {
      fn(r, a, transform);
    }
  });
}

// Scales of the bins of a real row.
template <class T>
struct BinScale {
  int64_t n;
  T ends;
  T middle;
  bool is_end(int64_t k) const { return k == 0 || 2 * k == n; }
  T operator()(int64_t k) const { return is_end(k) ? ends : middle; }
};

}  // namespace

template <class T>
void fft_rows(const T* x, T* y, int64_t rows, int64_t n, bool inverse, double scale) {
  const auto plan = plan_of<T>(n);
  const auto* from = reinterpret_cast<const Complex<T>*>(x);
  auto* to = reinterpret_cast<Complex<T>*>(y);
  const auto s = static_cast<T>(scale);
  const T sign = inverse ? T(-1) : T(1);
  for_each_row(*plan, rows, n, [&](int64_t r, Split<T> a, const auto& transform) {
    for (int64_t k = 0; k < n; ++k) a.set(k, {from[r * n + k].re, sign * from[r * n + k].im});
    transform();
    for (int64_t k = 0; k < n; ++k) to[r * n + k] = {s * a[k].re, s * sign * a[k].im};
  });
}

template <class T>
void rfft_rows(const T* x, T* y, int64_t rows, int64_t n, double ends, double middle) {
  const BinScale<T> scale{n, static_cast<T>(ends), static_cast<T>(middle)};
  const bool even = n % 2 == 0;  // then two reals are one complex number of half the length
  const int64_t h = even ? n / 2 : n;
  const int64_t bins = n / 2 + 1;
  const auto plan = plan_of<T>(h);
  auto* to = reinterpret_cast<Complex<T>*>(y);
  for_each_row(*plan, rows, h, [&](int64_t r, Split<T> a, const auto& transform) {
    const T* row = x + r * n;
    for (int64_t k = 0; k < h; ++k) {
      a.set(k, even ? Complex<T>{row[2 * k], row[2 * k + 1]} : Complex<T>{row[k], 0});
    }
    transform();
    for (int64_t k = 0; k < bins; ++k) {
      Complex<T> bin = a[k < h ? k : 0];
      if (even) {
        const Complex<T> mirror = conj(a[k > 0 ? h - k : 0]);
        const Complex<T> odd = plan->half_roots()[static_cast<size_t>(k)] * (bin - mirror);
        const Complex<T> sum = bin + mirror;
        bin = {(sum.re + odd.im) / 2, (sum.im - odd.re) / 2};
      }
      const T s = scale(k);
      to[r * bins + k] = {s * bin.re, scale.is_end(k) ? T(0) : s * bin.im};
    }
  });
}

template <class T>
void irfft_rows(const T* y, T* x, int64_t rows, int64_t n, double ends, double middle) {
  const BinScale<T> scale{n, static_cast<T>(ends), static_cast<T>(middle)};
  const bool even = n % 2 == 0;
  const int64_t h = even ? n / 2 : n;
  const int64_t bins = n / 2 + 1;
  const auto plan = plan_of<T>(h);
  const auto* from = reinterpret_cast<const Complex<T>*>(y);
  for_each_row(*plan, rows, h, [&](int64_t r, Split<T> a, const auto& transform) {
    const auto bin = [&](int64_t k) {
      const Complex<T> v = from[r * bins + k];
      return Complex<T>{scale(k) * v.re, scale.is_end(k) ? T(0) : scale(k) * v.im};
    };
    for (int64_t k = 0; k < h; ++k) {  // conjugated: the transform then is the inverse one
      if (!even) {
        a.set(k, k < bins ? conj(bin(k)) : bin(n - k));
        continue;
      }
      const Complex<T> mirror = conj(bin(h - k));
      const Complex<T> odd = conj(plan->half_roots()[static_cast<size_t>(k)]) * (bin(k) - mirror);
      const Complex<T> sum = bin(k) + mirror;
      a.set(k, {sum.re - odd.im, -(sum.im + odd.re)});
    }
    transform();
    for (int64_t k = 0; k < h; ++k) {
      if (even) {
        x[r * n + 2 * k] = a[k].re;
        x[r * n + 2 * k + 1] = -a[k].im;
      } else {
        x[r * n + k] = a[k].re;
      }
    }
  });
}

int64_t fast_fft_length(int64_t n) {
  for (n = std::max<int64_t>(2, n + n % 2);; n += 2) {
    int64_t left = n;
    for (int64_t p : {2, 3, 5}) {
      while (left % p == 0) left /= p;
    }
    if (left == 1) return n;
  }
}

template void fft_rows(const float*, float*, int64_t, int64_t, bool, double);
template void fft_rows(const double*, double*, int64_t, int64_t, bool, double);
template void rfft_rows(const float*, float*, int64_t, int64_t, double, double);
template void rfft_rows(const double*, double*, int64_t, int64_t, double, double);
template void irfft_rows(const float*, float*, int64_t, int64_t, double, double);
template void irfft_rows(const double*, double*, int64_t, int64_t, double, double);

}  // namespace tessera::kernels
