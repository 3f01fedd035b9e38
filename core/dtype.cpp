#include "tessera/core/dtype.h"

#include <array>

namespace tessera {
namespace {

struct Row {
  std::string_view name;
  int64_t size;
  int rank;  // order of promotion
};
constexpr std::array<Row, 8> kRows = {{{"f32", 4, 5},
                                       {"f64", 8, 6},
                                       {"bf16", 2, 4},
                                       {"f16", 2, 4},
                                       {"i64", 8, 3},
                                       {"i32", 4, 2},
                                       {"u8", 1, 1},
                                       {"bool", 1, 0}}};

const Row& row(DType dtype) {
  return kRows[static_cast<size_t>(dtype)];
}

}  // namespace

int64_t size_of(DType dtype) {
  return row(dtype).size;
}

std::string_view name(DType dtype) {
  return row(dtype).name;
}

DType dtype_from_name(std::string_view text) {
  for (size_t i = 0; i < kRows.size(); ++i) {
    if (kRows[i].name == text) return static_cast<DType>(i);
  }
  fail("dtype: unknown name \"{}\"; use f32, f64, bf16, f16, i64, i32, u8 or bool", text);
}

DType promote(DType a, DType b) {
  if (a == b) return a;
  if (is_half(a) && is_half(b)) return DType::f32;
  return row(a).rank > row(b).rank ? a : b;
}

uint16_t float16::to_bits(float value) {
  const uint32_t u = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (u >> 16) & 0x8000u;
  const uint32_t magnitude = u & 0x7fffffffu;
  uint32_t half = 0;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u;  // NaN
  } else if (magnitude >= 0x477ff000u) {
    half = 0x7c00u;  // at least 65520 rounds to infinity
  } else if (magnitude < 0x38800000u) {
    // Denormal result: adding 0.5 lets the f32 unit round at 2^-24.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    half = std::bit_cast<uint32_t>(shifted) - 0x3f000000u;
  } else {
    half = (magnitude + 0xc8000fffu + ((magnitude >> 13) & 1u)) >> 13;
  }
  return static_cast<uint16_t>(sign | half);
}

float float16::from_bits(uint16_t bits) {
  const uint32_t sign = uint32_t{bits & 0x8000u} << 16;
  const uint32_t magnitude = bits & 0x7fffu;
  if (magnitude >= 0x7c00u) {
    return std::bit_cast<float>(sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13));
  }
  // Placed in the f32 exponent field and multiplied by 2^112, which also normalises denormals.
  const float scaled = std::bit_cast<float>(magnitude << 13) * 0x1p112f;
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(scaled));
}

}  // namespace tessera
