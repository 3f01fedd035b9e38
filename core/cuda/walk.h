// Nested dimensions with strides, walked by element number: what kernels use that give a thread, a
// warp or a block an element of some dimensions and then loop over others. Counts may exceed 2³¹.
#pragma once

#include <array>

#include "tessera/core/cuda/strided.h"

namespace tessera::cuda {

// Dimension 0 is the innermost. Dimensions of size 1 are dropped, and those merged that lie densely
// in one another.
struct Walk {
  int rank = 0;
  bool wide = false;  // 2³¹ elements or more: plain divisions
  int64_t count = 1;
  std::array<int64_t, kMaxRank> size{};
  std::array<int64_t, kMaxRank> stride{};
  std::array<Divider, kMaxRank> divider{};

  Walk() = default;
  // `sizes` and `strides` from the outermost dimension to the innermost.
  Walk(const Shape& sizes, const Strides& strides) {
    count = sizes.numel();
    for (int64_t d = sizes.rank() - 1; d >= 0; --d) {
      if (sizes[d] == 1) continue;
      const size_t last = static_cast<size_t>(rank) - 1;
      if (rank > 0 && strides[d] == stride[last] * size[last]) {
        size[last] *= sizes[d];
      } else {
        size[static_cast<size_t>(rank)] = sizes[d];
        stride[static_cast<size_t>(rank++)] = strides[d];
      }
    }
    wide = count >= int64_t{1} << 31;
    for (size_t d = 0; !wide && count > 0 && d < static_cast<size_t>(rank); ++d) {
      divider[d] = Divider(static_cast<unsigned>(size[d]));
    }
  }

  // The stride from one element to the next; 0 where there is but one.
  int64_t step() const { return rank == 0 ? 0 : stride[0]; }
  // Whether aligned pieces of `width` elements are dense and never cross the innermost dimension.
  bool in_pieces(int64_t width) const {
    if (rank == 0 || stride[0] != 1 || size[0] % width != 0) return false;
    for (size_t d = 1; d < static_cast<size_t>(rank); ++d) {
      if (stride[d] % width != 0) return false;
    }
    return true;
  }

#ifdef __CUDACC__
  // Offset of element i < count.
  __device__ int64_t offset(int64_t i) const {
    if (rank <= 1) return i * stride[0];
    int64_t at = 0;
    if (wide) {
      for (int d = 0; d + 1 < rank; ++d) {
        const int64_t next = i / size[d];
        at += (i - next * size[d]) * stride[d];
        i = next;
      }
      return at + i * stride[rank - 1];
    }
    auto rest = static_cast<unsigned>(i);
    for (int d = 0; d + 1 < rank; ++d) {
      const unsigned next = divider[d].divide(rest);
      at += static_cast<int64_t>(rest - next * divider[d].divisor) * stride[d];
      rest = next;
    }
    return at + static_cast<int64_t>(rest) * stride[rank - 1];
  }
#endif
};

}  // namespace tessera::cuda
