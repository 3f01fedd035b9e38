// A row spread over a team of eight lanes: pieces of 16 bytes side by side, so that a row of 64
// halves is one access of a team. A warp has four teams.
#pragma once

#include "tessera/attention/engines/gather_kernels.h"

namespace tessera::lists {

constexpr int kPairThreads = 128;
constexpr int kTeam = 8;
constexpr int kTeams = 32 / kTeam;

// A lane's part: kEach elements.
template <class T, int kEach>
struct Part {
  using C = cuda::Compute<T>;
  static constexpr int kVector = cuda::kVectorSize<T>, kPieces = kEach / kVector;
  cuda::Vector<T, kVector> piece[kPieces];

  __device__ static int column(int i) {
    return (i * kTeam + static_cast<int>(threadIdx.x) % kTeam) * kVector;
  }
  // Zeros beyond the width, and for nobody.
  __device__ void load(const T* row, int width, bool there) {
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      if (there && column(i) < width) {
        piece[i] = cuda::load<kVector>(row + column(i));
      } else {
        piece[i] = {};
      }
    }
  }
  __device__ C operator[](int e) const {
    return convert<C>(piece[e / kVector][e % kVector]);
  }
};

template <class T, int kEach>
__device__ void store_part(T* row, int width, const cuda::Compute<T> (&x)[kEach],
                           cuda::Compute<T> factor) {
  using P = Part<T, kEach>;
#pragma unroll
  for (int i = 0; i < P::kPieces; ++i) {
    if (P::column(i) >= width) continue;
    cuda::Vector<T, P::kVector> y;
#pragma unroll
    for (int e = 0; e < P::kVector; ++e) y[e] = convert<T>(x[i * P::kVector + e] * factor);
    cuda::store(row + P::column(i), y);
  }
}

template <class C>
__device__ C over_team(C x) {
#pragma unroll
  for (int step = 1; step < kTeam; step *= 2) x += __shfl_xor_sync(cuda::kAllLanes, x, step);
  return x;
}
// Over the same lane of all teams.
template <class C, class Op>
__device__ C over_teams(C x, Op op) {
#pragma unroll
  for (int step = kTeam; step < 32; step *= 2) {
    x = op(x, __shfl_xor_sync(cuda::kAllLanes, x, step));
  }
  return x;
}

template <class T, int kEach>
__device__ cuda::Compute<T> product(const cuda::Compute<T> (&x)[kEach], const Part<T, kEach>& y) {
  cuda::Compute<T> sum = 0;
#pragma unroll
  for (int e = 0; e < kEach; ++e) sum += x[e] * y[e];
  return over_team(sum);
}

template <class T, int kEach>
__device__ void set(cuda::Compute<T> (&x)[kEach], const Part<T, kEach>& y) {
#pragma unroll
  for (int e = 0; e < kEach; ++e) x[e] = y[e];
}

template <class T, int kEach>
__device__ void add(cuda::Compute<T> (&x)[kEach], cuda::Compute<T> weight,
                    const Part<T, kEach>& y) {
#pragma unroll
  for (int e = 0; e < kEach; ++e) x[e] += weight * y[e];
}

// fn<T, elements per lane>() for rows of up to 8, 16 or 32 times eight elements.
template <class Fn>
void visit_parts(const Tensor& q, const Tensor& v, const Fn& fn) {
  const int64_t width = std::max(q.size(3), v.size(3));
  cuda::visit_floating("gather_attention", q.dtype(), [&]<class T>() {
    if (width <= 64) {
      fn.template operator()<T, 8>();
    } else if (width <= 128 && sizeof(T) == 2) {
      fn.template operator()<T, sizeof(T) == 2 ? 16 : 32>();
    } else {
      fn.template operator()<T, 32>();
    }
  });
}

inline unsigned blocks_of(int64_t warps) {
  return dense::grid_of((warps + kPairThreads / 32 - 1) / (kPairThreads / 32));
}

}  // namespace tessera::lists
