#include "tessera/autograd/ops/rotary.h"

#include <cmath>
#include <numbers>

#include "tessera/autograd/op.h"
#include "tessera/autograd/ops/arguments.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/rotary_cuda.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/registry.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/kernels/strided.h"
#include "tessera/core/view.h"

namespace tessera {
namespace {

// θ' of the "llama3" scaling: short wavelengths are kept, long ones divided, those between blended.
double llama3(double theta, const RotaryOptions& o) {
  const double wavelength = 2 * std::numbers::pi / theta;
  const double ratio = static_cast<double>(o.original_context) / wavelength;
  const double s = std::clamp((ratio - o.low) / (o.high - o.low), 0.0, 1.0);
  return (1 - s) * theta / o.factor + s * theta;
}

// θ' of the "yarn" scaling: the same, blended between the places of the pairs that turn `high` and
// `low` times over the original context.
double yarn(double theta, int64_t pair, int64_t width, const RotaryOptions& o) {
  const auto size = static_cast<double>(width);
  const auto place = [&](double turns) {
    const double wavelength = static_cast<double>(o.original_context) / turns;
    return size * std::log(wavelength / (2 * std::numbers::pi)) / (2 * std::log(o.base));
  };
  const double first = std::max(std::floor(place(o.high)), 0.0);
  double last = std::min(std::ceil(place(o.low)), size - 1);
  if (last == first) last += 0.001;
  const double s = std::clamp((static_cast<double>(pair) - first) / (last - first), 0.0, 1.0);
  return s * theta / o.factor + (1 - s) * theta;
}

double amplitude_of(const RotaryOptions& o) {
  if (o.scaling != "yarn") return 1;
  if (o.amplitude > 0) return o.amplitude;
  return 0.1 * std::log(std::max(o.factor, 1.0)) + 1;
}

double frequency(int64_t pair, int64_t width, const RotaryOptions& o) {
  const double theta =
      std::pow(o.base, -2 * static_cast<double>(pair) / static_cast<double>(width));
  if (o.scaling == "linear") return theta / o.factor;
  if (o.scaling == "yarn") return yarn(theta, pair, width, o);
  return o.scaling == "llama3" ? llama3(theta, o) : theta;
}

std::vector<double> frequencies_of(int64_t width, const RotaryOptions& o) {
  std::vector<double> theta;
  for (int64_t i = 0; i < width / 2; ++i) theta.push_back(frequency(i, width, o));
  return theta;
}

// One row: the pairs (a, b) → (a cos − b sin, b cos + a sin), channels beyond the width copied.
template <class T>
void turn_row(const T* x, T* y, const T* table, int64_t width, int64_t size, bool interleaved,
              T sign) {
  const int64_t half = width / 2;
  const T* c = table;
  const T* s = table + half;
  if (interleaved) {
    for (int64_t i = 0; i < half; ++i) {
      const T a = x[2 * i];
      const T b = x[2 * i + 1];
      y[2 * i] = a * c[i] - sign * b * s[i];
      y[2 * i + 1] = b * c[i] + sign * a * s[i];
    }
  } else {
    const T* second = x + half;
    T* turned = y + half;
#pragma omp simd
    for (int64_t i = 0; i < half; ++i) {
      const T a = x[i];
      const T b = second[i];
      y[i] = a * c[i] - sign * b * s[i];
      turned[i] = b * c[i] + sign * a * s[i];
    }
  }
  std::copy(x + width, x + size, y + width);
}

// A rotation by the angles of `table`, what turns() makes of the positions, or on CUDA by those of
// the positions themselves. Its adjoint is the rotation back.
struct Rotary {
  static constexpr std::string_view name = "rotary";
  bool interleaved;
  std::vector<double> frequencies;
  int sign = 1;

  Tensor forward(Forward& f, const Tensor& x, const Tensor& table) const {
    f.save(table);
    const Tensor y = empty(x.shape(), {x.dtype(), x.device()});
    const Tensor source = x.stride(-1) == 1 || x.size(-1) == 1 ? x : kernels::contiguous(x);
    if (x.numel() == 0) return y;
    if constexpr (kCuda) {
      if (x.device().is_cuda()) {
        rotary_cuda(y, source, table, frequencies, interleaved, sign);
        return y;
      }
    }
    const auto width = 2 * static_cast<int64_t>(frequencies.size());
    const Tensor rows[] = {views::select(y, -1, 0), views::select(source, -1, 0),
                           views::select(views::select(table, -1, 0), -1, 0)};
    const Tensor* operands[] = {&rows[0], &rows[1], &rows[2]};
    const kernels::StridedLoop loop(rows[0].shape(), operands);
    const int64_t size = x.size(-1);
    visit_floating(name, x.dtype(), [&]<class T>() {
      loop.for_each_piece(std::max<int64_t>(1, kGrain / size), [&](const int64_t* at, int64_t n) {
        for (int64_t i = 0; i < n; ++i) {
          turn_row(source.data<T>() + at[1] + i * loop.row_stride(1),
                   y.data<T>() + at[0] + i * loop.row_stride(0),
                   table.data<T>() + at[2] + i * loop.row_stride(2), width, size, interleaved,
                   static_cast<T>(sign));
        }
      });
    });
    return y;
  }
  void backward(Backward& b) const {
    b.add(0, apply(Rotary{interleaved, frequencies, -sign}, b.grad(), b.saved(0)));
  }
};

// The same of plain ops, for the samples.
Tensor plain_rotary(const Tensor& x, const Tensor& positions, const RotaryOptions& o) {
  const int64_t size = x.size(-1);
  const int64_t width = o.rotary_dim == 0 ? size : o.rotary_dim;
  const Tensor table = turns(positions, frequencies_of(width, o), x.dtype()) * amplitude_of(o);
  const Tensor c = select(table, -2, 0);
  const Tensor s = select(table, -2, 1);
  const int64_t step = o.interleaved ? 2 : 1;
  const int64_t second = o.interleaved ? 1 : width / 2;
  const Tensor a = slice(x, -1, 0, o.interleaved ? width : width / 2, step);
  const Tensor b = slice(x, -1, second, width, step);
  const TensorList turned = {a * c - b * s, b * c + a * s};
  const Tensor y = o.interleaved ? flatten(stack(turned, -1), -2, -1) : concat(turned, -1);
  return concat({y, slice(x, -1, width, size)}, -1);
}

OpSample sample(std::string label, const Tensor& x, const Tensor& positions,
                const RotaryOptions& options = {}) {
  return {
      std::move(label),
      {x, positions},
      [options](const TensorList& in) { return TensorList{rotary(in[0], in[1], options)}; },
      [options](const TensorList& in) { return TensorList{plain_rotary(in[0], in[1], options)}; }};
}

std::vector<OpSample> rotary_samples() {
  const Tensor x = samples::normal({2, 3, 4});
  const Tensor positions = samples::integers({3}, 0, 100);
  return {sample("half-split", x, positions),
          sample("interleaved", x, positions, {.interleaved = true}),
          sample("half of the channels", x, positions, {.rotary_dim = 2}),
          sample("linear", x, positions, {.scaling = "linear", .factor = 4}),
          sample("llama3", x, positions,
                 {.base = 100, .scaling = "llama3", .factor = 8, .original_context = 32}),
          sample("yarn", samples::normal({3, 8}), positions,
                 {.base = 100, .scaling = "yarn", .factor = 8, .high = 8, .original_context = 64}),
          sample("positions per sample", x, samples::integers({2, 3}, 0, 100)),
          sample("positions broadcast over heads", samples::normal({2, 2, 3, 2}),
                 samples::integers({2, 1, 3}, 0, 100)),
          sample("strided", samples::strided(x), positions),
          sample("heads of a packed tensor", views::transpose(samples::normal({2, 3, 2, 4}), 1, 2),
                 positions),
          sample("one token", samples::normal({1, 2}), samples::integers({1}, 7, 8)),
          sample("no token", samples::normal({2, 0, 4}), samples::integers({0}, 0, 1))};
}

const RegisterOp row{{
    .name = "rotary",
    .formula = "(a, b) → (a cos α − b sin α, b cos α + a sin α), α = position · base^(−2i/D)",
    .source = "Su et al. 2021",
    .samples = rotary_samples,
    .wrong_calls = {
        [] {
          rotary(samples::normal({2, 3}), samples::integers({2}, 0, 9));
        },
        [] {
          rotary(samples::normal({2, 4}), samples::integers({3}, 0, 9));
        },
        [] { rotary(samples::normal({4}), samples::integers({1}, 0, 9)); },
        [] {
          rotary(samples::normal({2, 4}), samples::normal({2}));
        },
        [] {
          rotary(samples::normal({2, 4}), samples::integers({2}, 0, 9), {.scaling = "spiral"});
        },
        [] {
          rotary(samples::normal({2, 4}), samples::integers({2}, 0, 9), {.rotary_dim = 6});
        },
        [] {
          rotary(samples::normal({2, 4}), samples::integers({2}, 0, 9),
                 {.rotary_dim = 2, .scaling = "yarn", .factor = 4});
        }},
}};

void check_options(const RotaryOptions& o) {
  const bool yarn = o.scaling == "yarn";
  check(o.scaling == "none" || o.scaling == "linear" || o.scaling == "llama3" || yarn,
        "rotary: unknown scaling \"{}\"; use \"none\", \"linear\", \"llama3\" or \"yarn\"",
        o.scaling);
  check(o.base > 0 && o.factor > 0, "rotary: base {} and factor {} must be positive", o.base,
        o.factor);
  check(o.high > o.low, "rotary: high {} must be greater than low {}", o.high, o.low);
  check(!yarn || (o.base > 1 && o.low > 0), "rotary: yarn wants base {} above 1 and low {} above 0",
        o.base, o.low);
}

}  // namespace

Tensor turns(const Tensor& positions, const std::vector<double>& frequencies, DType dtype) {
  const auto count = static_cast<int64_t>(frequencies.size());
  Shape shape = positions.shape();
  shape.push_back(2);
  shape.push_back(count);
  const Tensor table = empty(shape, {dtype, positions.device()});
  const Tensor dense = kernels::contiguous(kernels::cast(positions, DType::i64));
  if constexpr (kCuda) {
    if (positions.device().is_cuda()) {
      turns_cuda(table, dense, frequencies);
      return table;
    }
  }
  const int64_t* at = dense.data<int64_t>();
  visit_floating("rotary", dtype, [&]<class T>() {
    parallel_for(positions.numel(), 16 * positions.numel() * count, [&](int64_t p) {
      T* pair = table.data<T>() + p * 2 * count;  // cosines, sines
      for (int64_t i = 0; i < count; ++i) {
        const double angle = static_cast<double>(at[p]) * frequencies[static_cast<size_t>(i)];
        pair[i] = static_cast<T>(std::cos(angle));
        pair[count + i] = static_cast<T>(std::sin(angle));
      }
    });
  });
  return table;
}

Tensor rotary(const Tensor& x, const Tensor& positions, const RotaryOptions& options) {
  check_options(options);
  detail::check_floating("rotary", x);
  check(x.rank() >= 2, "rotary: wants (…, T, D), got {}", x.shape());
  const int64_t width = options.rotary_dim == 0 ? x.size(-1) : options.rotary_dim;
  check(width % 2 == 0 && width >= 0 && width <= x.size(-1),
        "rotary: {} channels of {} cannot turn in pairs", width, x.shape());
  const double amplitude = amplitude_of(options);
  check(amplitude == 1 || width == x.size(-1), "rotary: yarn turns all of {} channels, not {}",
        x.size(-1), width);
  check(positions.device() == x.device(), "rotary: positions on {} for an input on {}",
        positions.device(), x.device());
  check(is_integral(positions.dtype()), "rotary: positions must be integers, got {}",
        positions.dtype());
  Shape tokens = x.shape();
  tokens.pop_back();
  check(broadcast_shapes(positions.shape(), tokens, "rotary") == tokens,
        "rotary: positions {} do not broadcast to the tokens {} of {}", positions.shape(), tokens,
        x.shape());
  const Tensor at = kernels::contiguous(kernels::cast(positions, DType::i64));
  const std::vector<double> frequencies = frequencies_of(width, options);
  const Tensor angles = x.device().is_cuda() ? at : turns(at, frequencies, x.dtype());
  const Tensor turned = apply(Rotary{options.interleaved, frequencies}, x, angles);
  return amplitude == 1 ? turned : turned * amplitude;
}

}  // namespace tessera
