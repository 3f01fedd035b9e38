#include "tessera/autograd/ops/dropout.h"

#include <bit>
#include <cmath>

#include "tessera/autograd/custom.h"
#include "tessera/autograd/op.h"
#include "tessera/autograd/ops/arguments.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/dropout_cuda.h"
#include "tessera/autograd/ops/elementwise.h"
#include "tessera/autograd/ops/softmax.h"
#include "tessera/autograd/registry.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/parallel.h"
#include "tessera/core/random.h"
#include "tessera/core/view.h"

namespace tessera {
namespace {

// y = keep x / (1 − p), gx = keep g / (1 − p): the op is its own adjoint. `group` consecutive
// elements share a draw.
struct Dropout {
  static constexpr std::string_view name = "dropout";
  double p;
  RandomKey key;
  int64_t group = 1;

  Tensor forward(Forward&, const Tensor& x) const {
    const Tensor dense = kernels::contiguous(x);
    if constexpr (kCuda) {
      if (x.device().is_cuda()) return dropout_cuda(dense, {threshold(), scale(), group}, key);
    }
    const Tensor y = empty_like(x);
    visit_floating(name, x.dtype(), [&]<class T>() {
      if (group == 1) {
        per_element(dense.data<T>(), y.data<T>(), x.numel());
      } else {
        per_group(dense.data<T>(), y.data<T>(), x.numel());
      }
    });
    return y;
  }
  void backward(Backward& b) const { b.add(0, apply(*this, b.grad())); }

 private:
  // Draws have 16 bits: eight of them come from one counter. The scale is that of the probability
  // they really have, so the expected value is x.
  uint32_t threshold() const {
    return static_cast<uint32_t>(std::min(65535L, std::lround(p * 65536)));
  }
  double scale() const { return 65536.0 / (65536.0 - threshold()); }

  template <class T>
  void per_element(const T* x, T* y, int64_t n) const {
    constexpr int64_t kDraws = 512;
    const T factor = static_cast<T>(scale());
    const uint32_t least = threshold();
    parallel_ranges(n, kGrain, [&](int64_t begin, int64_t end) {
      std::array<uint32_t, kDraws / 2> words;
      for (int64_t i = begin; i < end; i += kDraws) {
        philox_words(key, static_cast<uint64_t>(i / 8), words);
        const auto draws = std::bit_cast<std::array<uint16_t, kDraws>>(words);
        const int64_t count = std::min(kDraws, end - i);
        const T* from = x + i;
        T* to = y + i;
#pragma omp simd
        for (int64_t k = 0; k < count; ++k) {
          const T kept = from[k] * factor;  // outside the choice, so that the loop vectorises
          to[k] = draws[static_cast<size_t>(k)] >= least ? kept : T(0);
        }
      }
    });
  }

  template <class T>
  void per_group(const T* x, T* y, int64_t n) const {
    const T factor = static_cast<T>(scale());
    const uint32_t least = threshold();
    parallel_for(n / group, n, [&](int64_t row) {
      const auto word = static_cast<uint64_t>(row);
      const bool keep = philox(key.seed, key.stream, word / 4)[word % 4] >> 16 >= least;
      const T* from = x + row * group;
      for (int64_t i = 0; i < group; ++i) y[row * group + i] = keep ? from[i] * factor : T(0);
    });
  }
};

Tensor thinned(std::string_view op, const Tensor& x, double p, bool training, int64_t group) {
  check(p >= 0 && p < 1, "{}: probability {} is not in [0, 1)", op, p);
  detail::check_floating(op, x);
  if (!training || p == 0) return x;
  return apply(Dropout{p, RandomScope::next_key(), group}, x);
}

// −log(−log(1 − u)) with u uniform, drawn in f64.
Tensor gumbel_noise(const Tensor& like) {
  const Tensor u = empty(like.shape(), {DType::f64, like.device()});
  kernels::uniform(u, 0, 1, RandomScope::next_key());
  return neg(log(clamp(neg(log1p(neg(u))), 0x1p-54, 64))).to(like.dtype());
}

// 1 at the first maximum along dim, 0 elsewhere.
Tensor one_hot_of_maximum(const Tensor& y, int64_t dim) {
  const Tensor hot = zeros_like(y);
  const Tensor source = kernels::contiguous(views::transpose(y.detach(), dim, -1));
  if constexpr (kCuda) {
    if (y.device().is_cuda()) {
      kernels::copy(hot, views::transpose(one_hot_of_maximum_cuda(source), dim, -1));
      return hot;
    }
  }
  const Tensor last = zeros_like(source);
  const int64_t n = source.size(-1);
  visit_floating("gumbel_softmax", y.dtype(), [&]<class T>() {
    const T* p = source.data<T>();
    for (int64_t at = 0; at < source.numel(); at += n) {
      last.data<T>()[std::max_element(p + at, p + at + n) - p] = T(1);
    }
  });
  kernels::copy(hot, views::transpose(last, dim, -1));
  return hot;
}

std::vector<OpSample> thinning_samples(Tensor (*op)(const Tensor&, double, bool)) {
  return samples::unary([op](const Tensor& x) {
    const RandomScope scope(5);
    return x.rank() == 0 ? op(x, 0.4, false) : op(x, 0.4, true);
  });
}

OpInfo thinning_row(const char* name, const char* formula, const char* source,
                    Tensor (*op)(const Tensor&, double, bool)) {
  return {.name = name,
          .formula = formula,
          .source = source,
          .samples = [op] { return thinning_samples(op); },
          .wrong_calls = {[op] { op(samples::normal({2}), 1, true); },
                          [op] { op(samples::normal({2}), -0.1, false); },
                          [op] { op(samples::integers({2}, 0, 3), 0.5, true); }}};
}

const RegisterOp dropout_row{thinning_row(
    "dropout", "y = keep x / (1 − p), keep ~ Bernoulli(1 − p)", "Srivastava et al. 2014", dropout)};
const RegisterOp drop_path_row{
    thinning_row("drop_path", "y = keep[sample] x / (1 − rate)", "Huang et al. 2016", drop_path)};

const RegisterOp gumbel_row{{
    .name = "gumbel_softmax",
    .formula = "softmax((x + noise) / tau)",
    .source = "Jang et al. 2017",
    .samples =
        [] {
          std::vector<OpSample> list;
          for (const Shape& shape : {Shape{3}, Shape{2, 3}, Shape{1}, Shape{0, 3}}) {
            list.push_back(
                {to_string(shape),
                 {samples::normal(shape)},
                 [](const TensorList& x) {
                   const RandomScope scope(5);
                   return TensorList{gumbel_softmax(x[0], 0.7), gumbel_softmax(x[0], 2, false, 0)};
                 },
                 {}});
          }
          return list;
        },
    .wrong_calls = {[] { gumbel_softmax(samples::normal({2}), 0); },
                    [] { gumbel_softmax(samples::normal({2}), 1, false, 1); },
                    [] { gumbel_softmax(samples::integers({2}, 0, 3)); }},
}};

}  // namespace

Tensor dropout(const Tensor& x, double p, bool training) {
  return thinned("dropout", x, p, training, 1);
}

Tensor drop_path(const Tensor& x, double rate, bool training) {
  check(x.rank() >= 1 || !training, "drop_path: wants samples along the first dimension, got {}",
        x.shape());
  const int64_t count = x.rank() == 0 ? 1 : std::max<int64_t>(1, x.size(0));
  return thinned("drop_path", x, rate, training, std::max<int64_t>(1, x.numel() / count));
}

Tensor gumbel_softmax(const Tensor& x, double tau, bool hard, int64_t dim) {
  check(tau > 0, "gumbel_softmax: tau must be positive, got {}", tau);
  detail::check_floating("gumbel_softmax", x);
  dim = normalize_dim(dim, x.rank(), "gumbel_softmax");
  const Tensor soft = softmax((x + gumbel_noise(x)) / tau, dim);
  return hard ? straight_through(one_hot_of_maximum(soft, dim), soft) : soft;
}

}  // namespace tessera
