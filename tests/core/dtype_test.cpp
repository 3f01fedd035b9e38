#include "tessera/core/dtype.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "tessera/core/random.h"

using namespace tessera;

namespace {

constexpr DType kAll[] = {DType::f32, DType::f64, DType::bf16, DType::f16,
                          DType::i64, DType::i32, DType::u8,   DType::boolean};

float16 half_of_bits(int bits) {
  float16 h;
  h.bits = static_cast<uint16_t>(bits);
  return h;
}

// The value of an f16 pattern from its definition.
double f16_value(int bits) {
  const int exponent = bits >> 10 & 31;
  const double fraction = (bits & 1023) / 1024.0;
  const double magnitude = exponent == 0    ? std::ldexp(fraction, -14)
                           : exponent == 31 ? (fraction == 0 ? INFINITY : NAN)
                                            : std::ldexp(1 + fraction, exponent - 15);
  return bits & 0x8000 ? -magnitude : magnitude;
}

bool is_nan_pattern(int bits) {
  return (bits & 0x7fff) > 0x7c00;
}

}  // namespace

TEST_CASE("every f16 pattern has its value and comes back from f32") {
  for (int bits = 0; bits < 65536; ++bits) {
    const auto value = static_cast<float>(half_of_bits(bits));
    if (is_nan_pattern(bits)) {
      REQUIRE(std::isnan(value));
      REQUIRE(is_nan_pattern(float16(value).bits));
    } else {
      REQUIRE(static_cast<double>(value) == f16_value(bits));
      REQUIRE(std::signbit(value) == (bits >= 0x8000));
      REQUIRE(float16(value).bits == bits);
    }
  }
}

TEST_CASE("f32 rounds to the nearest f16, ties to even") {
  for (int bits = 0; bits < 0x7bff; ++bits) {  // up to the largest finite one
    const double low = f16_value(bits), high = f16_value(bits + 1);
    const auto middle = static_cast<float>((low + high) / 2);  // exact in f32
    const int even = bits % 2 == 0 ? bits : bits + 1;
    REQUIRE(float16(middle).bits == even);
    REQUIRE(float16(-middle).bits == (even | 0x8000));
    REQUIRE(float16(std::nextafter(middle, 0.0f)).bits == bits);
    REQUIRE(float16(std::nextafter(middle, 1e9f)).bits == bits + 1);
  }
  CHECK(float16(65519.99f).bits == 0x7bff);
  CHECK(float16(65520.0f).bits == 0x7c00);
  CHECK(float16(1e30f).bits == 0x7c00);
}

TEST_CASE("every bf16 pattern comes back from f32") {
  for (int bits = 0; bits < 65536; ++bits) {
    bfloat16 b;
    b.bits = static_cast<uint16_t>(bits);
    const auto value = static_cast<float>(b);
    if (std::isnan(value))
      REQUIRE(std::isnan(static_cast<float>(bfloat16(value))));
    else
      REQUIRE(bfloat16(value).bits == bits);
  }
}

TEST_CASE("f32 rounds to the nearest bf16, ties to even, and NaN stays NaN") {
  Generator random(3);
  for (int i = 0; i < 100'000; ++i) {
    const uint32_t bits = random.next() & 0x7fffffffu;
    if (bits >= 0x7f7f0000u) continue;  // rounds to infinity or is not finite
    const uint32_t rest = bits & 0xffffu;
    const uint32_t down = bits >> 16;
    const uint32_t even = down + (down & 1u);
    const uint32_t wanted = rest < 0x8000u ? down : rest > 0x8000u ? down + 1 : even;
    REQUIRE(bfloat16(std::bit_cast<float>(bits)).bits == wanted);
    const uint32_t tie = (bits & 0xffff0000u) | 0x8000u;
    REQUIRE(bfloat16(std::bit_cast<float>(tie)).bits == even);
  }
  CHECK(bfloat16(std::numeric_limits<float>::max()).bits == 0x7f80);
  for (uint32_t payload : {0x7f800001u, 0x7fffffffu, 0xff800001u}) {
    CHECK(std::isnan(static_cast<float>(bfloat16(std::bit_cast<float>(payload)))));
  }
}

TEST_CASE("names lead back to their types, and unknown ones to an error with the choice") {
  for (DType dtype : kAll) CHECK(dtype_from_name(name(dtype)) == dtype);
  CHECK_THROWS_WITH_AS(dtype_from_name("float"), doctest::Contains("use f32, f64, bf16"), Error);
}

TEST_CASE("promotion is symmetric, reflexive, associative but for two halves, and never narrows") {
  for (DType a : kAll) {
    CHECK(promote(a, a) == a);
    for (DType b : kAll) {
      CHECK(promote(a, b) == promote(b, a));
      CHECK((is_floating(promote(a, b)) == (is_floating(a) || is_floating(b))));
      CHECK(promote(promote(a, b), b) == promote(a, b));
    }
  }
  CHECK(promote(DType::bf16, DType::f16) == DType::f32);
  CHECK(promote(DType::i64, DType::f16) == DType::f16);
  CHECK(promote(DType::f64, DType::f32) == DType::f64);
  CHECK(promote(DType::boolean, DType::u8) == DType::u8);
}

TEST_CASE("visit_dtype hands over the type of every dtype") {
  for (DType dtype : kAll) {
    visit_dtype(dtype, [&]<class T>() {
      CHECK(dtype_of<T>() == dtype);
      CHECK(size_of(dtype) == static_cast<int64_t>(sizeof(T)));
    });
  }
  CHECK_THROWS_WITH_AS(visit_floating("op", DType::bf16, []<class T>() {}),
                       doctest::Contains("op: wants f32 or f64 on the CPU, got bf16"), Error);
}
