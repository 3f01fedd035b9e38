// Products by groups of rows: a block computes a 64 × 64 tile of the result, 32 of the inner
// dimension at a time, halves on tensor cores. Which tile is whose follows from the offsets, read
// on the device: the grid is the largest number of tiles that any offsets can ask for.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <mma.h>

#include "tessera/autograd/ops/grouped_matmul_cuda.h"
#include "tessera/core/cuda/kernel.h"
#include "tessera/core/cuda/runtime.h"
#include "tessera/core/kernels/copy.h"

namespace tessera {
namespace {

constexpr std::string_view kName = "grouped_matmul";
constexpr int kSide = 64;      // of a tile of the result
constexpr int kInner = 32;     // of the inner dimension at a time
constexpr int kThreads = 128;  // 4 warps, or 8 rows of 16 threads
constexpr int kPad = 8;        // elements between rows in shared memory
constexpr int kOutPad = 4;

template <int kColumns>
constexpr int kStride = kColumns + kPad;

// A tile of a row-major matrix, zeros outside of its `rows` and `columns`.
template <int kRows, int kColumns, class T>
__device__ void load_tile(T* to, const T* from, int64_t ld, int64_t rows, int64_t columns,
                          bool vectors) {
  constexpr int kVector = cuda::kVectorSize<T>;
  constexpr int kPieces = kColumns / kVector;
  for (int i = static_cast<int>(threadIdx.x); i < kRows * kPieces; i += kThreads) {
    const int row = i / kPieces, column = i % kPieces * kVector;
    const T* at = from + row * ld + column;
    cuda::Vector<T, kVector> piece;
    if (vectors && row < rows && column + kVector <= columns) {
      piece = cuda::load<kVector>(at);
    } else {
#pragma unroll
      for (int e = 0; e < kVector; ++e) {
        piece[e] = row < rows && column + e < columns ? at[e] : convert<T>(0.0f);
      }
    }
    cuda::store(to + row * kStride<kColumns> + column, piece);
  }
}

// The shared tiles of A (64 × 32) and B (32 × 64); a transposed one is stored the other way round.
template <class T>
struct Tiles {
  alignas(32) T a[kSide * kStride<kInner>];
  alignas(32) T b[kSide * kStride<kInner>];
};
static_assert(kSide * kStride<kInner> >= kInner * kStride<kSide>);

// What a thread holds of the 64 × 64 sums, f32 and f64: 8 rows × 4 columns.
template <class T, bool kTransA, bool kTransB>
class Sums {
 public:
  __device__ void add(const Tiles<T>& tiles) {
    const int row = static_cast<int>(threadIdx.x) / 16 * 8;
    const int column = static_cast<int>(threadIdx.x) % 16 * 4;
    for (int k = 0; k < kInner; ++k) {
      T a[8], b[4];
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        a[i] = tiles.a[kTransA ? k * kStride<kSide> + row + i : (row + i) * kStride<kInner> + k];
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        b[j] =
            tiles.b[kTransB ? (column + j) * kStride<kInner> + k : k * kStride<kSide> + column + j];
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) sum_[i][j] += a[i] * b[j];
      }
    }
  }
  // fn(row, column, sum) for all of the tile.
  template <class Fn>
  __device__ void finish(const Fn& fn) {
    const int row = static_cast<int>(threadIdx.x) / 16 * 8;
    const int column = static_cast<int>(threadIdx.x) % 16 * 4;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) fn(row + i, column + j, sum_[i][j]);
    }
  }

 private:
  T sum_[8][4] = {};
};

template <class T>
struct NativeOf;
template <>
struct NativeOf<bfloat16> {
  using type = __nv_bfloat16;
};
template <>
struct NativeOf<float16> {
  using type = __half;
};

// The same for halves: each of 4 warps holds 32 × 32 sums in fragments of 16 × 16.
template <class T, bool kTransA, bool kTransB>
class HalfSums {
  using Native = typename NativeOf<T>::type;
  template <bool kTransposed>
  using Layout = std::conditional_t<kTransposed, nvcuda::wmma::col_major, nvcuda::wmma::row_major>;

 public:
  __device__ HalfSums() {
    for (auto& row : sum_) {
      for (auto& fragment : row) nvcuda::wmma::fill_fragment(fragment, 0.0f);
    }
  }
  __device__ void add(const Tiles<T>& tiles) {
    namespace wmma = nvcuda::wmma;
    const auto* a = reinterpret_cast<const Native*>(tiles.a);
    const auto* b = reinterpret_cast<const Native*>(tiles.b);
    for (int k = 0; k < kInner; k += 16) {
      wmma::fragment<wmma::matrix_a, 16, 16, 16, Native, Layout<kTransA>> fa[2];
      wmma::fragment<wmma::matrix_b, 16, 16, 16, Native, Layout<kTransB>> fb[2];
      for (int i = 0; i < 2; ++i) {
        const int row = row_ + 16 * i, column = column_ + 16 * i;
        wmma::load_matrix_sync(fa[i],
                               a + (kTransA ? k * kStride<kSide> + row : row * kStride<kInner> + k),
                               kTransA ? kStride<kSide> : kStride<kInner>);
        wmma::load_matrix_sync(
            fb[i], b + (kTransB ? column * kStride<kInner> + k : k * kStride<kSide> + column),
            kTransB ? kStride<kInner> : kStride<kSide>);
      }
      for (int i = 0; i < 2; ++i) {
        for (int j = 0; j < 2; ++j) wmma::mma_sync(sum_[i][j], fa[i], fb[j], sum_[i][j]);
      }
    }
  }
  template <class Fn>
  __device__ void finish(const Fn& fn) {
    __shared__ alignas(32) float out[kSide * (kSide + kOutPad)];
    for (int i = 0; i < 2; ++i) {
      for (int j = 0; j < 2; ++j) {
        nvcuda::wmma::store_matrix_sync(
            out + (row_ + 16 * i) * (kSide + kOutPad) + column_ + 16 * j, sum_[i][j],
            kSide + kOutPad, nvcuda::wmma::mem_row_major);
      }
    }
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < kSide * kSide; i += kThreads) {
      const int row = i / kSide, column = i % kSide;
      fn(row, column, out[row * (kSide + kOutPad) + column]);
    }
  }

 private:
  int row_ = static_cast<int>(threadIdx.x / cuda::kWarp / 2) * 32;
  int column_ = static_cast<int>(threadIdx.x / cuda::kWarp % 2) * 32;
  nvcuda::wmma::fragment<nvcuda::wmma::accumulator, 16, 16, 16, float> sum_[2][2];
};

template <class T, bool kTransA, bool kTransB>
using SumsOf =
    std::conditional_t<sizeof(T) == 2, HalfSums<T, kTransA, kTransB>, Sums<T, kTransA, kTransB>>;

__device__ void check_group(int64_t begin, int64_t end, int64_t rows) {
  if (begin >= 0 && begin <= end && end <= rows) return;
  printf("grouped_matmul: a group has the rows [%lld, %lld) of %lld\n",
         static_cast<long long>(begin), static_cast<long long>(end), static_cast<long long>(rows));
  __trap();
}

template <class T>
struct Product {
  T* y;
  const T* x;
  const T* w;
  const int64_t* offsets;
  const T* bias;  // may be null
  int64_t groups, rows, inner, columns;
  int64_t w_group, w_ld;  // steps between matrices and between their stored rows
  bool accumulate, vectors_x, vectors_w;
};

// y = x w[g] (+ bias[g]) or y += x w[g]; the rows behind the last group count as one more group.
template <class T, bool kTransB>
__global__ void product_kernel(Product<T> p) {
  using C = cuda::Compute<T>;
  __shared__ Tiles<T> tiles;
  int64_t tile = blockIdx.x, group = 0, begin = 0, end = 0;
  for (;; ++group) {
    if (group > p.groups) return;
    begin = p.offsets[group];
    end = group < p.groups ? p.offsets[group + 1] : p.rows;
    check_group(begin, end, p.rows);
    const int64_t count = (end - begin + kSide - 1) / kSide;
    if (tile < count) break;
    tile -= count;
  }
  const bool behind = group == p.groups;
  if (behind && p.accumulate) return;
  const int64_t row0 = begin + tile * kSide, column0 = static_cast<int64_t>(blockIdx.y) * kSide;
  const int64_t rows = end - row0, columns = p.columns - column0;
  SumsOf<T, false, kTransB> sums;
  for (int64_t k = 0; k < p.inner && !behind; k += kInner) {
    const T* w = p.w + group * p.w_group;
    load_tile<kSide, kInner>(tiles.a, p.x + row0 * p.inner + k, p.inner, rows, p.inner - k,
                             p.vectors_x);
    if constexpr (kTransB) {
      load_tile<kSide, kInner>(tiles.b, w + column0 * p.w_ld + k, p.w_ld, columns, p.inner - k,
                               p.vectors_w);
    } else {
      load_tile<kInner, kSide>(tiles.b, w + k * p.w_ld + column0, p.w_ld, p.inner - k, columns,
                               p.vectors_w);
    }
    __syncthreads();
    sums.add(tiles);
    __syncthreads();
  }
  sums.finish([&](int row, int column, C sum) {
    if (row >= rows || column >= columns) return;
    T* at = p.y + (row0 + row) * p.columns + column0 + column;
    if (p.bias != nullptr && !behind) {
      sum += convert<C>(p.bias[group * p.columns + column0 + column]);
    }
    if (p.accumulate) sum += convert<C>(*at);
    *at = convert<T>(sum);
  });
}

template <class T>
struct WeightGradient {
  T* gw;
  const T* x;
  const T* g;
  const int64_t* offsets;
  int64_t rows, inner, columns;
  bool vectors_x, vectors_g;
};

// gw[group] += xᵀ g over the rows of the group; block (tile of x's columns, of g's, group).
template <class T>
__global__ void weight_gradient_kernel(WeightGradient<T> p) {
  using C = cuda::Compute<T>;
  __shared__ Tiles<T> tiles;
  const int64_t group = blockIdx.z, begin = p.offsets[group], end = p.offsets[group + 1];
  check_group(begin, end, p.rows);
  if (begin == end) return;
  const int64_t row0 = static_cast<int64_t>(blockIdx.x) * kSide;
  const int64_t column0 = static_cast<int64_t>(blockIdx.y) * kSide;
  const int64_t rows = p.inner - row0, columns = p.columns - column0;
  SumsOf<T, true, false> sums;
  for (int64_t r = begin; r < end; r += kInner) {
    load_tile<kInner, kSide>(tiles.a, p.x + r * p.inner + row0, p.inner, end - r, rows,
                             p.vectors_x);
    load_tile<kInner, kSide>(tiles.b, p.g + r * p.columns + column0, p.columns, end - r, columns,
                             p.vectors_g);
    __syncthreads();
    sums.add(tiles);
    __syncthreads();
  }
  T* gw = p.gw + group * p.inner * p.columns;
  sums.finish([&](int row, int column, C sum) {
    if (row >= rows || column >= columns) return;
    T* at = gw + (row0 + row) * p.columns + column0 + column;
    *at = convert<T>(sum + convert<C>(*at));
  });
}

constexpr int kLanes = 8;  // rows in flight per column

// Block (32 columns, group) of 32 × 8 threads.
template <class T>
__global__ void bias_gradient_kernel(T* gb, const T* g, const int64_t* offsets, int64_t rows,
                                     int64_t columns) {
  using C = cuda::Compute<T>;
  __shared__ C part[kLanes][cuda::kWarp];
  const int64_t group = blockIdx.y, begin = offsets[group], end = offsets[group + 1];
  check_group(begin, end, rows);
  const int lane = static_cast<int>(threadIdx.x % cuda::kWarp);
  const int first = static_cast<int>(threadIdx.x / cuda::kWarp);
  const int64_t column = static_cast<int64_t>(blockIdx.x) * cuda::kWarp + lane;
  C sum = 0;
  if (column < columns) {
    for (int64_t r = begin + first; r < end; r += kLanes) {
      sum += convert<C>(g[r * columns + column]);
    }
  }
  part[first][lane] = sum;
  __syncthreads();
  if (first != 0 || column >= columns) return;
  for (int i = 1; i < kLanes; ++i) sum += part[i][lane];
  T* at = gb + group * columns + column;
  *at = convert<T>(sum + convert<C>(*at));
}

int64_t tiles_of(int64_t size) {
  return (size + kSide - 1) / kSide;
}

template <class T>
void run_product(const Tensor& y, const Tensor& x, const Tensor& w, bool transposed,
                 const Tensor& offsets, const Tensor& bias, bool accumulate) {
  Product<T> p;
  p.y = cuda::data<T>(y);
  p.x = cuda::data<T>(x);
  p.w = cuda::data<T>(w);
  p.offsets = cuda::data<int64_t>(offsets);
  p.bias = bias.defined() ? cuda::data<T>(bias) : nullptr;
  p.groups = w.size(0);
  p.rows = x.size(0);
  p.inner = w.size(1);
  p.columns = w.size(2);
  p.w_group = w.stride(0);
  p.w_ld = w.stride(transposed ? 2 : 1);
  p.accumulate = accumulate;
  p.vectors_x = cuda::is_aligned(p.x, p.inner);
  p.vectors_w = cuda::is_aligned(p.w, p.w_ld) && cuda::is_aligned(p.w, p.w_group);
  const dim3 grid(static_cast<unsigned>(tiles_of(p.rows) + p.groups + 1),
                  static_cast<unsigned>(tiles_of(p.columns)));
  cuda::launch(kName, y.device(), transposed ? product_kernel<T, true> : product_kernel<T, false>,
               grid, kThreads, 0, p);
}

}  // namespace

void grouped_product_cuda(const Tensor& y, const Tensor& x, const Tensor& w, const Tensor& offsets,
                          const Tensor& bias, bool accumulate) {
  if (y.numel() == 0) return;
  const bool rows = w.stride(2) == 1 || w.size(2) == 1;
  const bool columns = w.stride(1) == 1 || w.size(1) == 1;
  const Tensor matrices = rows || columns ? w : kernels::contiguous(w);
  cuda::visit_floating(kName, y.dtype(), [&]<class T>() {
    run_product<T>(y, x, matrices, !rows && columns, kernels::contiguous(offsets), bias,
                   accumulate);
  });
}

void grouped_weight_gradient_cuda(const Tensor& gw, const Tensor& x, const Tensor& g,
                                  const Tensor& offsets) {
  if (gw.numel() == 0) return;
  const Tensor at = kernels::contiguous(offsets);
  cuda::visit_floating(kName, gw.dtype(), [&]<class T>() {
    WeightGradient<T> p;
    p.gw = cuda::data<T>(gw);
    p.x = cuda::data<T>(x);
    p.g = cuda::data<T>(g);
    p.offsets = cuda::data<int64_t>(at);
    p.rows = x.size(0);
    p.inner = gw.size(1);
    p.columns = gw.size(2);
    p.vectors_x = cuda::is_aligned(p.x, p.inner);
    p.vectors_g = cuda::is_aligned(p.g, p.columns);
    const dim3 grid(static_cast<unsigned>(tiles_of(p.inner)),
                    static_cast<unsigned>(tiles_of(p.columns)), static_cast<unsigned>(gw.size(0)));
    cuda::launch(kName, gw.device(), weight_gradient_kernel<T>, grid, kThreads, 0, p);
  });
}

void grouped_bias_gradient_cuda(const Tensor& gb, const Tensor& g, const Tensor& offsets) {
  if (gb.numel() == 0) return;
  const Tensor at = kernels::contiguous(offsets);
  cuda::visit_floating(kName, gb.dtype(), [&]<class T>() {
    const int64_t columns = gb.size(1);
    const dim3 grid(static_cast<unsigned>((columns + cuda::kWarp - 1) / cuda::kWarp),
                    static_cast<unsigned>(gb.size(0)));
    cuda::launch(kName, gb.device(), bias_gradient_kernel<T>, grid,
                 static_cast<unsigned>(cuda::kWarp * kLanes), 0, cuda::data<T>(gb),
                 cuda::data<T>(g), cuda::data<int64_t>(at), g.size(0), columns);
  });
}

}  // namespace tessera
