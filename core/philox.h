// The arithmetic of random numbers that the CPU and the devices share word for word: the rounds of
// Philox, the mixing of stream names, and how words become numbers.
#pragma once

#include <cstdint>
#include <type_traits>

#include "tessera/core/inline.h"

namespace tessera::detail {

constexpr int kPhiloxRounds = 10;

TESSERA_INLINE uint32_t lower(uint64_t x) {
  return static_cast<uint32_t>(x);
}
TESSERA_INLINE uint32_t upper(uint64_t x) {
  return static_cast<uint32_t>(x >> 32);
}

struct PhiloxKey {
  uint32_t low;
  uint32_t high;
  TESSERA_INLINE explicit PhiloxKey(uint64_t seed) : low(lower(seed)), high(upper(seed)) {}
  TESSERA_INLINE void bump() {
    low += 0x9E3779B9u;
    high += 0xBB67AE85u;
  }
};

TESSERA_INLINE void philox_round(uint32_t& c0, uint32_t& c1, uint32_t& c2, uint32_t& c3,
                                 PhiloxKey key) {
  const uint64_t a = uint64_t{c0} * 0xD2511F53u;
  const uint64_t b = uint64_t{c2} * 0xCD9E8D57u;
  c0 = upper(b) ^ c1 ^ key.low;
  c1 = lower(b);
  c2 = upper(a) ^ c3 ^ key.high;
  c3 = lower(a);
}

// splitmix64's finaliser: a bijection in which every bit depends on every bit.
TESSERA_INLINE uint64_t scramble(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}
TESSERA_INLINE uint64_t mix_words(uint64_t a, uint64_t b) {
  return scramble(scramble(a + 0x9E3779B97F4A7C15u) + b);
}

// Elements that one counter makes: an f64 takes two words.
template <class T>
constexpr int kPerCounter = sizeof(T) == 8 ? 2 : 4;

// [0, 1) in steps of 2^-24 (f32) or 2^-53 (f64): element i of those made of `words`.
template <class T>
TESSERA_INLINE T unit(const uint32_t* words, int64_t i) {
  if constexpr (std::is_same_v<T, double>) {
    const uint64_t word = uint64_t{words[2 * i]} << 32 | words[2 * i + 1];
    return static_cast<double>(word >> 11) * 0x1p-53;
  } else {
    return static_cast<float>(static_cast<int32_t>(words[i] >> 8)) * 0x1p-24f;
  }
}

// (0, 1], where the logarithm is finite.
template <class T>
TESSERA_INLINE T positive_unit(const uint32_t* words, int64_t i) {
  if constexpr (std::is_same_v<T, double>) {
    return unit<double>(words, i) + 0x1p-54;
  } else {
    return static_cast<float>(words[i]) * 0x1p-32f + 0x1p-33f;
  }
}

}  // namespace tessera::detail
