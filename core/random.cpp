#include "tessera/core/random.h"

#include <bit>
#include <cmath>
#include <numbers>
#include <numeric>

#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/math.h"
#include "tessera/core/normal_quantile.h"
#include "tessera/core/parallel.h"
#include "tessera/core/philox.h"
#include "tessera/core/random_cuda.h"

namespace tessera {
namespace {

constexpr int64_t kLanes = 64;  // counters that go through the rounds together
constexpr int64_t kBatch = 4 * kLanes;

// A column is one of the four counter words of all lanes.
using Column = std::array<uint32_t, kLanes>;
using Words = std::array<uint32_t, kBatch>;

// The words of the counters (stream, first), (stream, first + 1), …, one counter after the other.
void philox_batch(RandomKey key, uint64_t first, Words& words) {
  std::array<Column, 4> c;
  for (size_t i = 0; i < kLanes; ++i) {
    c[0][i] = detail::lower(first + i);
    c[1][i] = detail::upper(first + i);
    c[2][i] = detail::lower(key.stream);
    c[3][i] = detail::upper(key.stream);
  }
  detail::PhiloxKey round_key(key.seed);
  for (int round = 0; round < detail::kPhiloxRounds; ++round, round_key.bump()) {
    for (size_t i = 0; i < kLanes; ++i)
      detail::philox_round(c[0][i], c[1][i], c[2][i], c[3][i], round_key);
  }
  for (size_t i = 0; i < kLanes; ++i) {
    for (size_t w = 0; w < 4; ++w) words[4 * i + w] = c[w][i];
  }
}

void check_dense(std::string_view op, const Tensor& x) {
  check(x.is_contiguous(), "{}: wants a dense tensor, got shape {} with strides {}", op, x.shape(),
        x.strides());
}

// fn(words, out, count) for every batch of x; `per_counter` elements are made of one counter.
template <class T, class Fn>
void for_each_batch(const Tensor& x, int64_t per_counter, RandomKey key, const Fn& fn) {
  T* data = x.data<T>();
  const int64_t batch = kLanes * per_counter;
  parallel_ranges(x.numel(), kGrain, [&](int64_t begin, int64_t end) {
    Words words;
    for (int64_t i = begin; i < end; i += batch) {
      philox_batch(key, static_cast<uint64_t>(i / per_counter), words);
      fn(words, data + i, std::min(batch, end - i));
    }
  });
}

template <class T>
using Values = std::array<T, kLanes * detail::kPerCounter<T>>;

template <class T>
void box_muller(const Words& words, Values<T>& values) {
  for (size_t i = 0; i < values.size(); i += 2) {
    const T radius =
        std::sqrt(-2 * math::log(detail::positive_unit<T>(words.data(), static_cast<int64_t>(i))));
    const T angle =
        2 * std::numbers::pi_v<T> * detail::unit<T>(words.data(), static_cast<int64_t>(i + 1));
    values[i] = radius * math::cos(angle);
    values[i + 1] = radius * math::sin(angle);
  }
}

double normal_cdf(double x) {
  return 0.5 * std::erfc(-x * std::numbers::sqrt2 / 2);
}

thread_local RandomScope::State current;

}  // namespace

std::array<uint32_t, 4> philox(uint64_t key, uint64_t high, uint64_t low) {
  std::array<uint32_t, 4> c = {detail::lower(low), detail::upper(low), detail::lower(high),
                               detail::upper(high)};
  detail::PhiloxKey round_key(key);
  for (int round = 0; round < detail::kPhiloxRounds; ++round, round_key.bump()) {
    detail::philox_round(c[0], c[1], c[2], c[3], round_key);
  }
  return c;
}

void philox_words(RandomKey key, uint64_t first, std::span<uint32_t> words) {
  Words batch;
  for (size_t begin = 0; begin < words.size(); begin += batch.size()) {
    philox_batch(key, first + begin / 4, batch);
    std::copy_n(batch.begin(), std::min(batch.size(), words.size() - begin), words.begin() + begin);
  }
}

uint64_t mix(uint64_t a, uint64_t b) {
  return detail::mix_words(a, b);
}

int64_t permuted_index(int64_t i, int64_t n, RandomKey key) {
  check(i >= 0 && i < n, "permuted_index: index {} is out of range for {} elements", i, n);
  const auto half = (static_cast<int>(std::bit_width(static_cast<uint64_t>(n - 1))) + 1) / 2;
  const uint64_t mask = (uint64_t{1} << half) - 1;
  const uint64_t base = mix(key.seed, key.stream);
  auto x = static_cast<uint64_t>(i);
  // The network permutes [0, 4^half), less than four times too large: walk on until inside.
  do {
    uint64_t left = x >> half;
    uint64_t right = x & mask;
    for (uint64_t round = 0; round < 8; ++round) {
      const uint64_t next = left ^ (mix(base + round, right) & mask);
      left = right;
      right = next;
    }
    x = left << half | right;
  } while (x >= static_cast<uint64_t>(n));
  return static_cast<int64_t>(x);
}

uint32_t Generator::next() {
  if (left_ == 0) {
    words_ = philox(key_.seed, key_.stream, counter_++);
    left_ = 4;
  }
  return words_[static_cast<size_t>(4 - left_--)];
}

double Generator::uniform() {
  const uint64_t high = next();
  return static_cast<double>((high << 32 | next()) >> 11) * 0x1p-53;
}

double Generator::normal() {
  const double radius = std::sqrt(-2 * std::log(1 - uniform()));
  return radius * std::cos(2 * std::numbers::pi * uniform());
}

int64_t Generator::below(int64_t n) {
  check(n > 0, "below: wants a positive bound, got {}", n);
  const auto bound = static_cast<uint64_t>(n);
  const uint64_t limit = UINT64_MAX - UINT64_MAX % bound;  // a multiple of the bound
  for (;;) {
    const uint64_t high = next();
    const uint64_t word = high << 32 | next();
    if (word < limit) return static_cast<int64_t>(word % bound);
  }
}

RandomScope::RandomScope(const State& state) : saved_(current) {
  current = state;
}
RandomScope::~RandomScope() {
  current = saved_;
}
RandomScope::State RandomScope::state() {
  return current;
}

RandomKey RandomScope::next_key() {
  const uint64_t use = current.uses++;
  return {current.seed, mix(current.step, use), use, true};
}

void set_captured_step([[maybe_unused]] Device device, [[maybe_unused]] uint64_t step) {
  if constexpr (kCuda) {
    if (device.is_cuda()) kernels::set_captured_step_cuda(device, step);
  }
}

namespace kernels {

void uniform(const Tensor& x, double low, double high, RandomKey key) {
  check(low <= high, "uniform: bounds [{}, {}) are out of order", low, high);
  check_dense("uniform", x);
  if constexpr (kCuda) {
    if (x.device().is_cuda()) return uniform_cuda(x, low, high, key);
  }
  visit_floating("uniform", x.dtype(), [&]<class T>() {
    const T start = static_cast<T>(low);
    const T width = static_cast<T>(high - low);
    const T last = std::nextafter(static_cast<T>(high), start);  // rounding must not reach `high`
    for_each_batch<T>(
        x, detail::kPerCounter<T>, key, [&](const Words& words, T* out, int64_t count) {
          for (int64_t i = 0; i < count; ++i) {
            const T y = math::detail::multiply_add(width, detail::unit<T>(words.data(), i), start);
            out[i] = y < last ? y : last;
          }
        });
  });
}

void normal(const Tensor& x, double mean, double stddev, RandomKey key) {
  check(stddev >= 0, "normal: negative standard deviation {}", stddev);
  check_dense("normal", x);
  if constexpr (kCuda) {
    if (x.device().is_cuda()) return normal_cuda(x, mean, stddev, key);
  }
  visit_floating("normal", x.dtype(), [&]<class T>() {
    const T shift = static_cast<T>(mean);
    const T scale = static_cast<T>(stddev);
    for_each_batch<T>(x, detail::kPerCounter<T>, key,
                      [&](const Words& words, T* out, int64_t count) {
                        Values<T> values;
                        box_muller<T>(words, values);
                        for (int64_t i = 0; i < count; ++i) {
                          out[i] = shift + scale * values[static_cast<size_t>(i)];
                        }
                      });
  });
}

void truncated_normal(const Tensor& x, double mean, double stddev, double low, double high,
                      RandomKey key) {
  check(stddev > 0, "truncated_normal: wants a positive standard deviation, got {}", stddev);
  check(low < high, "truncated_normal: bounds [{}, {}] are out of order", low, high);
  // Mirrored when the interval lies above the mean: small probabilities keep all their digits.
  const double sign = low + high > 2 * mean ? -1 : 1;
  const double from = normal_cdf(((sign > 0 ? low : high) - mean) * sign / stddev);
  const double to = normal_cdf(((sign > 0 ? high : low) - mean) * sign / stddev);
  check_dense("truncated_normal", x);
  if constexpr (kCuda) {
    if (x.device().is_cuda()) {
      return truncated_normal_cuda(x, {mean, stddev, low, high, sign, from, to}, key);
    }
  }
  visit_floating("truncated_normal", x.dtype(), [&]<class T>() {
    for_each_batch<T>(x, detail::kPerCounter<T>, key,
                      [&](const Words& words, T* out, int64_t count) {
                        for (int64_t i = 0; i < count; ++i) {
                          const double u = detail::positive_unit<T>(words.data(), i);
                          const double z = sign * detail::normal_quantile(from + (to - from) * u);
                          out[i] = static_cast<T>(std::clamp(mean + stddev * z, low, high));
                        }
                      });
  });
}

void bernoulli(const Tensor& x, double probability, RandomKey key) {
  check(probability >= 0 && probability <= 1, "bernoulli: probability {} is not in [0, 1]",
        probability);
  const auto threshold = static_cast<uint64_t>(probability * 0x1p32);
  check_dense("bernoulli", x);
  if constexpr (kCuda) {
    if (x.device().is_cuda()) return bernoulli_cuda(x, threshold, key);
  }
  visit_dtype(x.dtype(), [&]<class T>() {
    const T one = convert<T>(1.0f);
    const T zero{};
    for_each_batch<T>(x, 4, key, [&](const Words& words, T* out, int64_t count) {
      for (int64_t i = 0; i < count; ++i) {
        out[i] = words[static_cast<size_t>(i)] < threshold ? one : zero;
      }
    });
  });
}

}  // namespace kernels

namespace {

// Halves are drawn in f32 and rounded.
Tensor draw(std::string_view op, const Shape& shape, DType dtype, Device device,
            void (*kernel)(const Tensor&, double, double, RandomKey), double a, double b) {
  check(is_floating(dtype), "{}: wants a floating dtype, got {}", op, dtype);
  Tensor result = empty(shape, {dtype == DType::f64 ? DType::f64 : DType::f32, device});
  kernel(result, a, b, RandomScope::next_key());
  return kernels::cast(result, dtype);
}

}  // namespace

Tensor rand(const Shape& shape, DType dtype, Device device) {
  return draw("rand", shape, dtype, device, kernels::uniform, 0, 1);
}

Tensor randn(const Shape& shape, DType dtype, Device device) {
  return draw("randn", shape, dtype, device, kernels::normal, 0, 1);
}

Tensor randint(int64_t low, int64_t high, const Shape& shape) {
  check(low < high, "randint: no integer in [{}, {})", low, high);
  Tensor result = empty(shape, {DType::i64, {}});
  const RandomKey key = RandomScope::next_key();
  Generator generator(key.seed, key.stream);
  auto* data = result.data<int64_t>();
  for (int64_t i = 0; i < result.numel(); ++i) data[i] = low + generator.below(high - low);
  return result;
}

Tensor randperm(int64_t n) {
  check(n >= 0, "randperm: negative count {}", n);
  Tensor result = empty({n}, {DType::i64, {}});
  const RandomKey key = RandomScope::next_key();
  Generator generator(key.seed, key.stream);
  auto* data = result.data<int64_t>();
  std::iota(data, data + n, int64_t{0});
  for (int64_t i = n - 1; i > 0; --i) std::swap(data[i], data[generator.below(i + 1)]);
  return result;
}

}  // namespace tessera
