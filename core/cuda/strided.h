// StridedLoop on a device: which elements of the operands belong to the i-th element of a broadcast
// shape. A launch covers fewer than 2³¹ elements, so indices are 32-bit and divisions a
// multiplication; larger tensors take several launches.
#pragma once

#include <array>

#include "tessera/core/inline.h"
#include "tessera/core/kernels/strided.h"

namespace tessera::cuda {

// n / d for n < 2³¹ by multiplication (Granlund and Montgomery 1994).
struct Divider {
  unsigned divisor = 1;
  unsigned magic = 1;
  unsigned shift = 0;

  Divider() = default;
  explicit Divider(unsigned d) : divisor(d) {
    while ((uint64_t{1} << shift) < d) ++shift;
    magic = static_cast<unsigned>(((uint64_t{1} << 32) * ((uint64_t{1} << shift) - d)) / d + 1);
  }
#ifdef __CUDACC__
  __device__ unsigned divide(unsigned n) const {
    return (__umulhi(n, magic) + n) >> shift;
  }
#endif
};

// N operands over one shape; dimension 0 is the innermost. The data pointers belong to the first
// element of the launch.
template <int N>
struct Strided {
  unsigned count = 0;   // elements of this launch
  int rank = 0;         // after merging
  bool vector = false;  // rows can be walked in pieces of `width`: see make_strided
  std::array<Divider, kMaxRank> size;
  int64_t stride[N][kMaxRank] = {};
  void* data[N] = {};
  DType dtype[N] = {};

#ifdef __CUDACC__
  // Element offsets of all operands at element i.
  __device__ void offsets(unsigned i, int64_t (&at)[N]) const {
#pragma unroll
    for (int k = 0; k < N; ++k) at[k] = 0;
    for (int d = 0; d < rank; ++d) {
      const unsigned next = d + 1 < rank ? size[d].divide(i) : 0;
      const unsigned index = i - next * size[d].divisor;
#pragma unroll
      for (int k = 0; k < N; ++k) at[k] += index * stride[k][d];
      i = next;
    }
  }
#endif
};

// fn(Strided<N>) for every launch that covers `shape`. `vector` is set where every operand's row is
// dense or constant and pieces of `width` elements neither cross a row's end nor lie askew.
template <int N, class Fn>
void for_each_launch(const Shape& shape, const Tensor* const (&operands)[N], int width,
                     const Fn& fn) {
  const kernels::StridedLoop loop(shape, operands);
  if (loop.numel() == 0) return;
  const Shape sizes = loop.shape();
  Strided<N> s;
  s.rank = static_cast<int>(sizes.rank());
  int64_t inside = 1;  // elements of all but the outermost dimension
  for (int64_t d = 1; d < sizes.rank(); ++d) inside *= sizes[d];
  check(inside < int64_t{1} << 31, "strided launch: shape {} has too many elements in a row",
        shape);
  s.vector = sizes.rank() <= 1 || loop.row_size() % width == 0;
  for (int k = 0; k < N; ++k) {
    const Strides& strides = loop.strides(k);
    s.dtype[k] = operands[k]->dtype();
    const int64_t bytes = size_of(s.dtype[k]);
    const auto align = std::min<int64_t>(16, width * bytes);
    const int64_t row = loop.row_stride(k);
    bool fits = row == 0 || row == 1;
    if (row == 1) fits = reinterpret_cast<uintptr_t>(operands[k]->raw_data()) % align == 0;
    for (int64_t d = 0; d < sizes.rank(); ++d) {
      s.stride[k][sizes.rank() - 1 - d] = strides[d];
      if (row == 1 && d + 1 < sizes.rank()) fits = fits && strides[d] * bytes % align == 0;
    }
    s.vector = s.vector && fits;
  }
  for (int64_t d = 0; d < sizes.rank(); ++d) {
    // The outermost size is never divided by.
    if (d > 0) s.size[sizes.rank() - 1 - d] = Divider(static_cast<unsigned>(sizes[d]));
  }
  const int64_t outer = sizes.rank() == 0 ? 1 : sizes[0];
  int64_t most = std::max<int64_t>(1, ((int64_t{1} << 31) - 1) / inside);
  if (sizes.rank() == 1) most = int64_t{1} << 30;  // pieces stay aligned
  for (int64_t begin = 0; begin < outer; begin += most) {
    s.count = static_cast<unsigned>(std::min(most, outer - begin) * inside);
    for (int k = 0; k < N; ++k) {
      const int64_t step = sizes.rank() == 0 ? 0 : loop.strides(k)[0];
      s.data[k] = static_cast<char*>(operands[k]->raw_data()) +
                  begin * step * size_of(operands[k]->dtype());
    }
    fn(static_cast<const Strided<N>&>(s));
  }
}

}  // namespace tessera::cuda
