// Of two halves in one register, the numbers (mma.h packs them).
#pragma once

#include <type_traits>

#include "tessera/core/dtype.h"

namespace tessera::cuda {

template <class T>
__device__ inline float2 unpack(unsigned x) {
  if constexpr (std::is_same_v<T, bfloat16>) {
    return {__uint_as_float(x << 16), __uint_as_float(x & 0xffff0000u)};
  } else {
    float2 f;
    asm("{.reg .b16 l, h; mov.b32 {l, h}, %2; cvt.f32.f16 %0, l; cvt.f32.f16 %1, h;}"
        : "=f"(f.x), "=f"(f.y)
        : "r"(x));
    return f;
  }
}

}  // namespace tessera::cuda
