#include "tessera/core/random.h"

#include <bit>
#include <cmath>
#include <numbers>
#include <numeric>

#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/math.h"
#include "tessera/core/parallel.h"

namespace tessera {
namespace {

constexpr int kRounds = 10;
constexpr int64_t kLanes = 64;  // counters that go through the rounds together
constexpr int64_t kBatch = 4 * kLanes;

// A column is one of the four counter words of all lanes.
using Column = std::array<uint32_t, kLanes>;
using Words = std::array<uint32_t, kBatch>;

uint32_t lower(uint64_t x) {
  return static_cast<uint32_t>(x);
}
uint32_t upper(uint64_t x) {
  return static_cast<uint32_t>(x >> 32);
}

struct Key {
  uint32_t low;
  uint32_t high;
  void bump() {
    low += 0x9E3779B9u;
    high += 0xBB67AE85u;
  }
};

void philox_round(uint32_t& c0, uint32_t& c1, uint32_t& c2, uint32_t& c3, Key key) {
  const uint64_t a = uint64_t{c0} * 0xD2511F53u;
  const uint64_t b = uint64_t{c2} * 0xCD9E8D57u;
  c0 = upper(b) ^ c1 ^ key.low;
  c1 = lower(b);
  c2 = upper(a) ^ c3 ^ key.high;
  c3 = lower(a);
}

// The words of the counters (stream, first), (stream, first + 1), …, one counter after the other.
void philox_batch(RandomKey key, uint64_t first, Words& words) {
  std::array<Column, 4> c;
  for (size_t i = 0; i < kLanes; ++i) {
    c[0][i] = lower(first + i);
    c[1][i] = upper(first + i);
    c[2][i] = lower(key.stream);
    c[3][i] = upper(key.stream);
  }
  Key round_key{lower(key.seed), upper(key.seed)};
  for (int round = 0; round < kRounds; ++round, round_key.bump()) {
    for (size_t i = 0; i < kLanes; ++i) philox_round(c[0][i], c[1][i], c[2][i], c[3][i], round_key);
  }
  for (size_t i = 0; i < kLanes; ++i) {
    for (size_t w = 0; w < 4; ++w) words[4 * i + w] = c[w][i];
  }
}

// fn(words, out, count) for every batch of x; `per_counter` elements are made of one counter.
template <class T, class Fn>
void for_each_batch(std::string_view op, const Tensor& x, int64_t per_counter, RandomKey key,
                    const Fn& fn) {
  check(x.is_contiguous(), "{}: wants a dense tensor, got shape {} with strides {}", op, x.shape(),
        x.strides());
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
constexpr int64_t kPerCounter = sizeof(T) == 8 ? 2 : 4;  // an f64 takes two words

template <class T>
using Values = std::array<T, kLanes * kPerCounter<T>>;

uint64_t join(const Words& words, size_t i) {
  return uint64_t{words[2 * i]} << 32 | words[2 * i + 1];
}

// [0, 1) in steps of 2^-24 (f32) or 2^-53 (f64).
template <class T>
T unit(const Words& words, size_t i) {
  if constexpr (sizeof(T) == 8)
    return static_cast<double>(join(words, i) >> 11) * 0x1p-53;
  else
    return static_cast<float>(static_cast<int32_t>(words[i] >> 8)) * 0x1p-24f;
}

// (0, 1], where the logarithm is finite.
template <class T>
T positive_unit(const Words& words, size_t i) {
  if constexpr (sizeof(T) == 8)
    return unit<double>(words, i) + 0x1p-54;
  else
    return static_cast<float>(words[i]) * 0x1p-32f + 0x1p-33f;
}

template <class T>
void box_muller(const Words& words, Values<T>& values) {
  for (size_t i = 0; i < values.size(); i += 2) {
    const T radius = std::sqrt(-2 * math::log(positive_unit<T>(words, i)));
    const T angle = 2 * std::numbers::pi_v<T> * unit<T>(words, i + 1);
    values[i] = radius * math::cos(angle);
    values[i + 1] = radius * math::sin(angle);
  }
}

double normal_cdf(double x) {
  return 0.5 * std::erfc(-x * std::numbers::sqrt2 / 2);
}

double ratio(double x, const std::array<double, 8>& p, const std::array<double, 8>& q) {
  double top = 0;
  double bottom = 0;
  for (size_t i = 8; i-- > 0;) {
    top = top * x + p[i];
    bottom = bottom * x + q[i];
  }
  return top / bottom;
}

// Inverse of normal_cdf to about 1e-16 (Wichura 1988, "Algorithm AS 241", PPND16).
double normal_quantile(double p) {
  const double q = p - 0.5;
  if (std::abs(q) <= 0.425) {
    return q * ratio(0.180625 - q * q,
                     {3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3,
                      1.3731693765509461125e4, 4.5921953931549871457e4, 6.7265770927008700853e4,
                      3.3430575583588128105e4, 2.5090809287301226727e3},
                     {1.0, 4.2313330701600911252e1, 6.8718700749205790830e2,
                      5.3941960214247511077e3, 2.1213794301586595867e4, 3.9307895800092710610e4,
                      2.8729085735721942674e4, 5.2264952788528545610e3});
  }
  const double r = std::sqrt(-std::log(q < 0 ? p : 1 - p));
  const double x =
      r <= 5
          ? ratio(r - 1.6,
                  {1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0,
                   3.64784832476320460504e0, 1.27045825245236838258e0, 2.41780725177450611770e-1,
                   2.27238449892691845833e-2, 7.74545014278341407640e-4},
                  {1.0, 2.05319162663775882187e0, 1.67638483018380384940e0,
                   6.89767334985100004550e-1, 1.48103976427480074590e-1, 1.51986665636164571966e-2,
                   5.47593808499534494600e-4, 1.05075007164441684324e-9})
          : ratio(r - 5,
                  {6.65790464350110377720e0, 5.46378491116411436990e0, 1.78482653991729133580e0,
                   2.96560571828504891230e-1, 2.65321895265761230930e-2, 1.24266094738807843860e-3,
                   2.71155556874348757815e-5, 2.01033439929228813265e-7},
                  {1.0, 5.99832206555887937690e-1, 1.36929880922735805310e-1,
                   1.48753612908506148525e-2, 7.86869131145613259100e-4, 1.84631831751005468180e-5,
                   1.42151175831644588870e-7, 2.04426310338993978564e-15});
  return q < 0 ? -x : x;
}

// splitmix64's finaliser: a bijection in which every bit depends on every bit.
uint64_t scramble(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

thread_local RandomScope::State current;

}  // namespace

std::array<uint32_t, 4> philox(uint64_t key, uint64_t high, uint64_t low) {
  std::array<uint32_t, 4> c = {lower(low), upper(low), lower(high), upper(high)};
  Key round_key{lower(key), upper(key)};
  for (int round = 0; round < kRounds; ++round, round_key.bump()) {
    philox_round(c[0], c[1], c[2], c[3], round_key);
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
  return scramble(scramble(a + 0x9E3779B97F4A7C15u) + b);
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
  return {current.seed, mix(current.step, current.uses++)};
}

namespace kernels {

void uniform(const Tensor& x, double low, double high, RandomKey key) {
  check(low <= high, "uniform: bounds [{}, {}) are out of order", low, high);
  visit_floating("uniform", x.dtype(), [&]<class T>() {
    const T start = static_cast<T>(low);
    const T width = static_cast<T>(high - low);
    const T last = std::nextafter(static_cast<T>(high), start);  // rounding must not reach `high`
    for_each_batch<T>(
        "uniform", x, kPerCounter<T>, key, [&](const Words& words, T* out, int64_t count) {
          for (int64_t i = 0; i < count; ++i) {
            out[i] = std::min(start + width * unit<T>(words, static_cast<size_t>(i)), last);
          }
        });
  });
}

void normal(const Tensor& x, double mean, double stddev, RandomKey key) {
  check(stddev >= 0, "normal: negative standard deviation {}", stddev);
  visit_floating("normal", x.dtype(), [&]<class T>() {
    const T shift = static_cast<T>(mean);
    const T scale = static_cast<T>(stddev);
    for_each_batch<T>("normal", x, kPerCounter<T>, key,
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
  visit_floating("truncated_normal", x.dtype(), [&]<class T>() {
    for_each_batch<T>("truncated_normal", x, kPerCounter<T>, key,
                      [&](const Words& words, T* out, int64_t count) {
                        for (int64_t i = 0; i < count; ++i) {
                          const double u = positive_unit<T>(words, static_cast<size_t>(i));
                          const double z = sign * normal_quantile(from + (to - from) * u);
                          out[i] = static_cast<T>(std::clamp(mean + stddev * z, low, high));
                        }
                      });
  });
}

void bernoulli(const Tensor& x, double probability, RandomKey key) {
  check(probability >= 0 && probability <= 1, "bernoulli: probability {} is not in [0, 1]",
        probability);
  const auto threshold = static_cast<uint64_t>(probability * 0x1p32);
  visit_dtype(x.dtype(), [&]<class T>() {
    const T one = convert<T>(1.0f);
    const T zero{};
    for_each_batch<T>("bernoulli", x, 4, key, [&](const Words& words, T* out, int64_t count) {
      for (int64_t i = 0; i < count; ++i) {
        out[i] = words[static_cast<size_t>(i)] < threshold ? one : zero;
      }
    });
  });
}

}  // namespace kernels

namespace {

// Halves are drawn in f32 and rounded.
Tensor draw(std::string_view op, const Shape& shape, DType dtype,
            void (*kernel)(const Tensor&, double, double, RandomKey), double a, double b) {
  check(is_floating(dtype), "{}: wants a floating dtype, got {}", op, dtype);
  Tensor result = empty(shape, {dtype == DType::f64 ? DType::f64 : DType::f32, {}});
  kernel(result, a, b, RandomScope::next_key());
  return kernels::cast(result, dtype);
}

}  // namespace

Tensor rand(const Shape& shape, DType dtype) {
  return draw("rand", shape, dtype, kernels::uniform, 0, 1);
}

Tensor randn(const Shape& shape, DType dtype) {
  return draw("randn", shape, dtype, kernels::normal, 0, 1);
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
