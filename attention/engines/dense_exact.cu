// The dense engine in plain f32 and f64 arithmetic. Everything is one of two loops over 64 × 64
// tiles of scores: the logsumexp of rows, and sums Σ_j w_ij x_j whose weights are P or its gradient
// dS and whose rows are queries (O, dQ) or keys (dV, dK). Scores are computed anew for each.
#include "tessera/attention/engines/dense_kernels.h"
#include "tessera/core/create.h"
#include "tessera/core/cuda/kernel.h"
#include "tessera/core/math.h"

namespace tessera::dense {
namespace {

constexpr int kSide = 64;   // of a tile of scores, and columns of a result
constexpr int kDepth = 8;   // of a step of a product
constexpr int kLanes = 16;  // threads along one side; each has rows and columns lane + 16 i
constexpr int kEach = kSide / kLanes;
constexpr unsigned kThreads = kLanes * kLanes;

template <class T>
struct Shared {
  T a[kDepth][kSide + 1];
  T b[kDepth][kSide + 1];
  T weights[kSide][kSide + 1];
};

// The rows of one head from `begin` on.
template <class T>
struct Rows {
  const T* data;
  int64_t stride;
  int begin, count, width;
  __device__ T at(int row, int column) const {
    const int r = begin + row;
    return r < count && column < width ? data[r * stride + column] : T{0};
  }
};

template <class T>
using Square = T[kEach][kEach];

template <class T>
__device__ void clear(Square<T>& c) {
  for (int i = 0; i < kEach; ++i) {
    for (int j = 0; j < kEach; ++j) c[i][j] = 0;
  }
}

template <class T>
__device__ void stage(T (&to)[kDepth][kSide + 1], const Rows<T>& rows, int column) {
  for (int e = threadIdx.x; e < kDepth * kSide; e += kThreads) {
    to[e % kDepth][e / kDepth] = rows.at(e / kDepth, column + e % kDepth);
  }
}

// c = a · bᵀ
template <class T>
__device__ void products_of_rows(Square<T>& c, const Rows<T>& a, const Rows<T>& b, Shared<T>& s) {
  const int x = threadIdx.x % kLanes, y = threadIdx.x / kLanes;
  clear(c);
  for (int column = 0; column < a.width; column += kDepth) {
    __syncthreads();
    stage(s.a, a, column);
    stage(s.b, b, column);
    __syncthreads();
    for (int d = 0; d < kDepth; ++d) {
      T left[kEach], right[kEach];
      for (int i = 0; i < kEach; ++i) {
        left[i] = s.a[d][y + kLanes * i];
        right[i] = s.b[d][x + kLanes * i];
      }
      for (int i = 0; i < kEach; ++i) {
        for (int j = 0; j < kEach; ++j) c[i][j] += left[i] * right[j];
      }
    }
  }
  __syncthreads();
}

// c += weights · x[:, column …]
template <class T>
__device__ void add_weighted(Square<T>& c, const Rows<T>& x, int column, Shared<T>& s) {
  const int tx = threadIdx.x % kLanes, ty = threadIdx.x / kLanes;
  for (int row = 0; row < kSide; row += kDepth) {
    __syncthreads();
    for (int e = threadIdx.x; e < kDepth * kSide; e += kThreads) {
      s.b[e / kSide][e % kSide] = x.at(row + e / kSide, column + e % kSide);
    }
    __syncthreads();
    for (int d = 0; d < kDepth; ++d) {
      T left[kEach], right[kEach];
      for (int i = 0; i < kEach; ++i) {
        left[i] = s.weights[ty + kLanes * i][row + d];
        right[i] = s.b[d][tx + kLanes * i];
      }
      for (int i = 0; i < kEach; ++i) {
        for (int j = 0; j < kEach; ++j) c[i][j] += left[i] * right[j];
      }
    }
  }
}

template <class T>
struct Arguments {
  Sizes sizes;
  Heads<const T> q, k, v, grad_out;
  const T* lse;
  const T* delta;
};

// Each of four neighbouring threads keeps maximum and sum of a quarter of a row.
template <class T>
__global__ void __launch_bounds__(kThreads) logsumexp_kernel(Arguments<T> a, T* lse) {
  extern __shared__ char memory[];
  Shared<T>& shared = *reinterpret_cast<Shared<T>*>(memory);
  const Sizes& s = a.sizes;
  const int tiles = (s.queries + kSide - 1) / kSide;
  const int begin = static_cast<int>(blockIdx.x % tiles) * kSide;
  const int head = static_cast<int>(blockIdx.x / tiles);  // over the batch
  const int b = head / s.heads, h = head % s.heads;
  const T none = -INFINITY;
  const int x = threadIdx.x % kLanes, y = threadIdx.x / kLanes;
  const int row = threadIdx.x / 4, quarter = threadIdx.x % 4;
  const Rows<T> q{a.q.at(b, h), a.q.row, begin, s.queries, s.width};
  T top = none, total = 0;
  const int last = s.visible(min(begin + kSide, s.queries) - 1);
  for (int j = 0; j < last; j += kSide) {
    Square<T> c;
    products_of_rows(c, q, {a.k.at(b, h / s.group), a.k.row, j, s.keys, s.width}, shared);
    for (int i = 0; i < kEach; ++i) {
      const int seen = s.visible(begin + y + kLanes * i);
      for (int e = 0; e < kEach; ++e) {
        const int column = x + kLanes * e;
        shared.weights[y + kLanes * i][column] =
            j + column < seen ? c[i][e] * static_cast<T>(s.scale) : none;
      }
    }
    __syncthreads();
    T best = top;
    for (int e = quarter; e < kSide; e += 4) best = max(best, shared.weights[row][e]);
    if (best > top) {
      total *= math::exp(top - best);
      top = best;
    }
    for (int e = quarter; e < kSide && top > none; e += 4) {
      total += math::exp(shared.weights[row][e] - top);
    }
  }
  for (int step = 1; step < 4; step *= 2) {
    const T other_top = __shfl_xor_sync(cuda::kAllLanes, top, step);
    const T other = __shfl_xor_sync(cuda::kAllLanes, total, step);
    const T best = max(top, other_top);
    if (best > none) total = total * math::exp(top - best) + other * math::exp(other_top - best);
    top = best;
  }
  if (quarter == 0 && begin + row < s.queries) {
    lse[static_cast<int64_t>(head) * s.queries + begin + row] =
        top > none ? top + math::log(total) : none;
  }
}

// result[i] = Σ_j w_ij x_j over the other side. kByQuery: rows are queries and the other side keys;
// kGradient: w = scale · dS, else P.
template <class T, bool kByQuery, bool kGradient>
__global__ void __launch_bounds__(kThreads)
    weighted_sum_kernel(Arguments<T> a, Heads<const T> x, Heads<T> result, int width) {
  extern __shared__ char memory[];
  Shared<T>& shared = *reinterpret_cast<Shared<T>*>(memory);
  const Sizes& s = a.sizes;
  const int rows = kByQuery ? s.queries : s.keys;
  const int tiles = (rows + kSide - 1) / kSide;
  const int columns = (width + kSide - 1) / kSide;
  const int begin = static_cast<int>(blockIdx.x % tiles) * kSide;
  const int column = static_cast<int>(blockIdx.x / tiles % columns) * kSide;
  const int head = static_cast<int>(blockIdx.x / tiles / columns);
  const int own_heads = kByQuery ? s.heads : s.key_heads;
  const int b = head / own_heads, own = head % own_heads;
  const int tx = threadIdx.x % kLanes, ty = threadIdx.x / kLanes;

  Square<T> sum;
  clear(sum);
  const int group = kByQuery ? 1 : s.group;
  for (int g = 0; g < group; ++g) {
    const int h = kByQuery ? own : own * s.group + g;
    const int kh = kByQuery ? own / s.group : own;
    const int64_t statistics = (static_cast<int64_t>(b) * s.heads + h) * s.queries;
    const int first = kByQuery ? 0 : s.first_query(begin) / kSide * kSide;
    const int last = kByQuery ? s.visible(min(begin + kSide, s.queries) - 1) : s.queries;
    for (int other = first; other < last; other += kSide) {
      const int query = kByQuery ? begin : other, key = kByQuery ? other : begin;
      const Rows<T> q{a.q.at(b, h), a.q.row, query, s.queries, s.width};
      const Rows<T> k{a.k.at(b, kh), a.k.row, key, s.keys, s.width};
      Square<T> score, slope;
      products_of_rows(score, kByQuery ? q : k, kByQuery ? k : q, shared);
      if constexpr (kGradient) {
        const Rows<T> o{a.grad_out.at(b, h), a.grad_out.row, query, s.queries, s.value_width};
        const Rows<T> v{a.v.at(b, kh), a.v.row, key, s.keys, s.value_width};
        products_of_rows(slope, kByQuery ? o : v, kByQuery ? v : o, shared);
      }
      for (int i = 0; i < kEach; ++i) {
        for (int j = 0; j < kEach; ++j) {
          const int r = ty + kLanes * i, c = tx + kLanes * j;
          const int at = query + (kByQuery ? r : c);
          T w = 0;
          if (at < s.queries && key + (kByQuery ? c : r) < s.visible(at)) {
            w = math::exp(score[i][j] * static_cast<T>(s.scale) - a.lse[statistics + at]);
            if constexpr (kGradient) {
              w *= (slope[i][j] - a.delta[statistics + at]) * static_cast<T>(s.scale);
            }
          }
          shared.weights[r][c] = w;
        }
      }
      const Rows<T> values{x.at(b, kByQuery ? kh : h), x.row, other, kByQuery ? s.keys : s.queries,
                           width};
      add_weighted(sum, values, column, shared);
    }
  }
  for (int i = 0; i < kEach; ++i) {
    for (int j = 0; j < kEach; ++j) {
      const int r = begin + ty + kLanes * i, c = column + tx + kLanes * j;
      if (r < rows && c < width) result.at(b, own)[r * result.row + c] = sum[i][j];
    }
  }
}

template <bool kByQuery, bool kGradient, class T>
void weighted_sum(const Arguments<T>& a, const Tensor& x, const Tensor& result) {
  const int64_t tiles = (result.size(2) + kSide - 1) / kSide;
  const int64_t columns = (result.size(3) + kSide - 1) / kSide;
  cuda::launch("dense_attention", result.device(), weighted_sum_kernel<T, kByQuery, kGradient>,
               grid_of(result.size(0) * result.size(1) * tiles * columns), kThreads,
               sizeof(Shared<T>), a, Heads<const T>(x), Heads<T>(result),
               static_cast<int>(result.size(3)));
}

// ⟨dO, O⟩ − dL of every row: one warp each.
template <class T>
__global__ void row_products_kernel(Sizes s, Heads<const T> out, Heads<const T> grad_out,
                                    const T* grad_lse, T* delta) {
  const int64_t rows = static_cast<int64_t>(s.batch) * s.heads * s.queries;
  const int64_t warps = cuda::thread_count() / cuda::kWarp;
  for (int64_t i = cuda::thread_index() / cuda::kWarp; i < rows; i += warps) {
    const int64_t row = i % s.queries;
    const int h = static_cast<int>(i / s.queries % s.heads);
    const int b = static_cast<int>(i / s.queries / s.heads);
    const T* o = out.at(b, h) + row * out.row;
    const T* g = grad_out.at(b, h) + row * grad_out.row;
    T dot = 0;
    for (int d = threadIdx.x % cuda::kWarp; d < s.value_width; d += cuda::kWarp) dot += o[d] * g[d];
    dot = cuda::warp_reduce(dot, cuda::Sum());
    if (threadIdx.x % cuda::kWarp == 0) delta[i] = dot - (grad_lse != nullptr ? grad_lse[i] : T{0});
  }
}

template <class Fn>
void visit_exact(DType dtype, const Fn& fn) {
  if (dtype == DType::f64) {
    fn.template operator()<double>();
  } else {
    fn.template operator()<float>();
  }
}

}  // namespace

void forward_exact(const Sizes& s, const Tensor& q, const Tensor& k, const Tensor& v,
                   const Tensor& out, const Tensor& lse) {
  visit_exact(q.dtype(), [&]<class T>() {
    const Arguments<T> a{
        s,      Heads<const T>(q), Heads<const T>(k), Heads<const T>(v), {}, cuda::data<T>(lse),
        nullptr};
    const int64_t tiles = (s.queries + kSide - 1) / kSide;
    cuda::launch("dense_attention", q.device(), logsumexp_kernel<T>,
                 grid_of(tiles * s.batch * s.heads), kThreads, sizeof(Shared<T>), a,
                 cuda::data<T>(lse));
    weighted_sum<true, false>(a, v, out);
  });
}

void backward_exact(const Sizes& s, const Tensor& q, const Tensor& k, const Tensor& v,
                    const Tensor& out, const Tensor& lse, const Tensor& grad_out,
                    const Tensor& grad_lse, const DenseGradients& grads) {
  visit_exact(q.dtype(), [&]<class T>() {
    const Tensor delta = empty(lse.shape(), {lse.dtype(), lse.device()});
    cuda::launch("dense_attention", q.device(), row_products_kernel<T>,
                 cuda::blocks_for(delta.numel(), 8), 256, 0, s, Heads<const T>(out),
                 Heads<const T>(grad_out), grad_lse.defined() ? cuda::data<T>(grad_lse) : nullptr,
                 cuda::data<T>(delta));
    const Arguments<T> a{s,
                         Heads<const T>(q),
                         Heads<const T>(k),
                         Heads<const T>(v),
                         Heads<const T>(grad_out),
                         cuda::data<T>(lse),
                         cuda::data<T>(delta)};
    weighted_sum<true, true>(a, k, grads.query);
    weighted_sum<false, true>(a, q, grads.key);
    weighted_sum<false, false>(a, grad_out, grads.value);
  });
}

}  // namespace tessera::dense
