// Element types, the two half types as storage formats, and dispatch from a DType to a C++ type.
#pragma once

#include <bit>
#include <cstdint>
#include <string_view>
#include <type_traits>
#include <utility>

#include "tessera/core/error.h"
#include "tessera/core/inline.h"

namespace tessera {

enum class DType : uint8_t { f32, f64, bf16, f16, i64, i32, u8, boolean };

// bfloat16: the upper half of an f32; conversion rounds to nearest even, NaN stays NaN.
struct bfloat16 {
  uint16_t bits;
  bfloat16() = default;
  TESSERA_INLINE explicit bfloat16(float value) {
#ifdef __CUDA_ARCH__
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
#else
    const uint32_t u = std::bit_cast<uint32_t>(value);
    if ((u & 0x7fffffffu) > 0x7f800000u) {
      bits = static_cast<uint16_t>((u >> 16) | 0x40u);
    } else {
      bits = static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
    }
#endif
  }
  TESSERA_INLINE explicit operator float() const {
    return std::bit_cast<float>(uint32_t{bits} << 16);
  }
};

// IEEE binary16; conversion rounds to nearest even, overflows to infinity, keeps denormals.
struct float16 {
  uint16_t bits;
  float16() = default;
  TESSERA_INLINE explicit float16(float value) {
#ifdef __CUDA_ARCH__
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
#else
    bits = to_bits(value);
#endif
  }
  TESSERA_INLINE explicit operator float() const {
#ifdef __CUDA_ARCH__
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
#else
    return from_bits(bits);
#endif
  }

 private:
  static uint16_t to_bits(float value);
  static float from_bits(uint16_t bits);
};

int64_t size_of(DType dtype);                  // bytes per element
std::string_view name(DType dtype);            // "f32", "bf16", "bool", …
DType dtype_from_name(std::string_view text);  // throws Error naming the valid ones
TESSERA_INLINE constexpr bool is_floating(DType d) {
  return d <= DType::f16;
}
TESSERA_INLINE constexpr bool is_half(DType d) {
  return d == DType::bf16 || d == DType::f16;
}
TESSERA_INLINE constexpr bool is_integral(DType d) {
  return d > DType::f16;
}

// The type in which an op on `a` and `b` computes and answers: bool < u8 < i32 < i64 < halves < f32
// < f64; the two halves together give f32.
DType promote(DType a, DType b);

template <class T>
constexpr DType dtype_of() {
  using U = std::remove_const_t<T>;
  if constexpr (std::is_same_v<U, float>)
    return DType::f32;
  else if constexpr (std::is_same_v<U, double>)
    return DType::f64;
  else if constexpr (std::is_same_v<U, bfloat16>)
    return DType::bf16;
  else if constexpr (std::is_same_v<U, float16>)
    return DType::f16;
  else if constexpr (std::is_same_v<U, int64_t>)
    return DType::i64;
  else if constexpr (std::is_same_v<U, int32_t>)
    return DType::i32;
  else if constexpr (std::is_same_v<U, uint8_t>)
    return DType::u8;
  else if constexpr (std::is_same_v<U, bool>)
    return DType::boolean;
  else
    static_assert(!sizeof(U), "no DType for this C++ type");
}

// Calls fn.template operator()<T>() with the C++ type of `dtype`:
//   visit_dtype(x.dtype(), [&]<class T>() { ... x.data<T>() ... });
template <class Fn>
decltype(auto) visit_dtype(DType dtype, Fn&& fn) {
  switch (dtype) {
    case DType::f32:
      return fn.template operator()<float>();
    case DType::f64:
      return fn.template operator()<double>();
    case DType::bf16:
      return fn.template operator()<bfloat16>();
    case DType::f16:
      return fn.template operator()<float16>();
    case DType::i64:
      return fn.template operator()<int64_t>();
    case DType::i32:
      return fn.template operator()<int32_t>();
    case DType::u8:
      return fn.template operator()<uint8_t>();
    case DType::boolean:
      break;
  }
  return fn.template operator()<bool>();
}

// The same for the two types in which CPU kernels compute; `op` begins the error for any other.
template <class Fn>
decltype(auto) visit_floating(std::string_view op, DType dtype, Fn&& fn) {
  if (dtype == DType::f32) return fn.template operator()<float>();
  if (dtype == DType::f64) return fn.template operator()<double>();
  fail("{}: wants f32 or f64 on the CPU, got {}; convert with to(DType::f32)", op, name(dtype));
}

// Value conversion between any two element types; halves go through float, bool is x != 0.
template <class To, class From>
TESSERA_INLINE To convert(From value) {
  constexpr bool from_half = std::is_same_v<From, bfloat16> || std::is_same_v<From, float16>;
  constexpr bool to_half = std::is_same_v<To, bfloat16> || std::is_same_v<To, float16>;
  if constexpr (std::is_same_v<To, From>)
    return value;
  else if constexpr (from_half)
    return convert<To>(static_cast<float>(value));
  else if constexpr (to_half)
    return To(static_cast<float>(value));
  else if constexpr (std::is_same_v<To, bool>)
    return value != From{};
  else
    return static_cast<To>(value);
}

}  // namespace tessera

template <>
struct fmt::formatter<tessera::DType> : fmt::formatter<std::string_view> {
  auto format(tessera::DType dtype, fmt::format_context& context) const {
    return fmt::formatter<std::string_view>::format(tessera::name(dtype), context);
  }
};
