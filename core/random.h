// Counter-based random numbers (Philox 4x32-10, Salmon et al. 2011, "Parallel Random Numbers: As
// Easy as 1, 2, 3"): a key and a counter give the same numbers on every device and for any number
// of threads.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "tessera/core/tensor.h"

namespace tessera {

// Four 32-bit words from a 64-bit key and a 128-bit counter (`high`, `low`).
std::array<uint32_t, 4> philox(uint64_t key, uint64_t high, uint64_t low);

// A stream of random numbers. Element i of an f32 tensor drawn from it is made of one word of the
// counter (stream, i / 4), element i of an f64 tensor of two words of (stream, i / 2).
struct RandomKey {
  uint64_t seed = 0;
  uint64_t stream = 0;
  // Of a key made by a RandomScope, stream = mix(step, use): a recorded CUDA graph reads the step
  // anew at every replay (set_captured_step).
  uint64_t use = 0;
  bool scoped = false;
};

// The words of the counters (stream, first), (stream, first + 1), …, four of each: vectorised.
void philox_words(RandomKey key, uint64_t first, std::span<uint32_t> words);

// Mixes words into one; keys of streams are made of (step, layer, use) with it.
uint64_t mix(uint64_t a, uint64_t b);

// The image of i under a permutation of 0 … n − 1 that the key picks: a shuffle that needs no
// memory (a Feistel network that walks on along its cycle until it lands below n).
int64_t permuted_index(int64_t i, int64_t n, RandomKey key);

// Sequential use of a stream, for host code (shuffling, augmentation, sampling).
class Generator {
 public:
  explicit Generator(uint64_t seed, uint64_t stream = 0) : key_{seed, stream} {}
  uint32_t next();
  double uniform();  // [0, 1), 53 bits
  double uniform(double low, double high) { return low + (high - low) * uniform(); }
  double normal();           // mean 0, variance 1
  int64_t below(int64_t n);  // uniform on 0 … n − 1, unbiased

 private:
  RandomKey key_;
  uint64_t counter_ = 0;
  std::array<uint32_t, 4> words_{};
  int left_ = 0;
};

// The random state that ops without an explicit key draw from (dropout, drop-path, Gumbel noise,
// initialisers): thread-local, a seed, a step and the number of draws so far. The trainer opens one
// scope per step; recomputation under a checkpoint reopens the scope its forward had, so that every
// draw repeats.
class RandomScope {
 public:
  struct State {
    uint64_t seed = 0;
    uint64_t step = 0;
    uint64_t uses = 0;
  };
  explicit RandomScope(uint64_t seed, uint64_t step = 0) : RandomScope(State{seed, step, 0}) {}
  explicit RandomScope(const State& state);
  ~RandomScope();
  RandomScope(const RandomScope&) = delete;
  RandomScope& operator=(const RandomScope&) = delete;

  static State state();         // of the innermost scope
  static RandomKey next_key();  // a fresh stream

 private:
  State saved_;
};

// What CUDA graphs recorded on `device` take for the step of their RandomScope from now on, in the
// order of the device's work; call it before each replay. Does nothing for the CPU.
void set_captured_step(Device device, uint64_t step);

namespace kernels {

// x is dense; f32 or f64 unless said otherwise. The values depend on the key alone.
void uniform(const Tensor& x, double low, double high, RandomKey key);    // in [low, high)
void normal(const Tensor& x, double mean, double stddev, RandomKey key);  // Box–Muller
// The normal distribution (mean, stddev) conditioned on [low, high], which are values and not
// multiples of stddev: GPT-style initialisers pass mean ± 2 stddev. By inversion of the
// distribution function, exact far out in the tails too.
void truncated_normal(const Tensor& x, double mean, double stddev, double low, double high,
                      RandomKey key);
void bernoulli(const Tensor& x, double probability, RandomKey key);  // 0 or 1, any dtype

}  // namespace kernels

// Fresh tensors from the innermost RandomScope: uniform on [0, 1), normal, …
Tensor rand(const Shape& shape, DType dtype = DType::f32, Device device = {});
Tensor randn(const Shape& shape, DType dtype = DType::f32, Device device = {});
Tensor randint(int64_t low, int64_t high, const Shape& shape);  // i64 in [low, high)
Tensor randperm(int64_t n);                                     // i64 permutation of 0 … n − 1

}  // namespace tessera
