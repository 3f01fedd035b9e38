#include "tessera/autograd/ops/elements_cuda.h"
#include "tessera/autograd/ops/reduce_cuda.h"
#include "tessera/core/create.h"
#include "tessera/core/cuda/kernel.h"
#include "tessera/core/cuda/runtime.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/math.h"

// A reduction is an op with a State and
//   identity()             the state of no entries
//   absorb(s, at, i, row)  adds entry i, which lies at offset `at` of a row that begins at `row`
//   merge(a, b)            the state of both, in any order
//   finish(r, s, row)      writes the result of row r
namespace tessera::detail {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kBlocks = 528;  // enough to fill a device, and the same for every device

struct Rows {
  int64_t count = 0;
  int64_t size = 0;
  int64_t stride = 0;  // from row to row
  int64_t step = 0;    // from entry to entry
  int64_t chunk = 0;   // entries of a part
};

template <class Op>
__device__ typename Op::State absorb_all(const Op& op, const Rows& rows, int64_t row, int64_t first,
                                         int64_t last, int64_t lanes) {
  auto state = op.identity();
#pragma unroll 4
  for (int64_t i = first; i < last; i += lanes) op.absorb(state, row + i * rows.step, i, row);
  return state;
}

// A row per group of `lanes` threads, a power of two up to a warp.
template <class Op>
__global__ void reduce_short(Op op, Rows rows, int lanes) {
  const int64_t r = cuda::thread_index() >> (__ffs(lanes) - 1);
  const int lane = static_cast<int>(threadIdx.x) & (lanes - 1);
  auto state = op.identity();
  if (r < rows.count) state = absorb_all(op, rows, r * rows.stride, lane, rows.size, lanes);
  for (int step = lanes / 2; step > 0; step /= 2) {
    state = op.merge(state, shuffle_down(state, step));
  }
  if (r < rows.count && lane == 0) op.finish(r, state, r * rows.stride);
}

// A row, or a part of it, per block.
template <class Op>
__global__ void reduce_long(Op op, Rows rows, typename Op::State* parts) {
  __shared__ typename Op::State scratch[kThreads];
  const int64_t r = blockIdx.x, row = r * rows.stride;
  const int64_t first = blockIdx.y * rows.chunk;
  const int64_t last = min(rows.size, first + rows.chunk);
  const unsigned lane = threadIdx.x;
  scratch[lane] = absorb_all(op, rows, row, first + lane, last, kThreads);
  for (unsigned half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (lane < half) scratch[lane] = op.merge(scratch[lane], scratch[lane + half]);
  }
  if (lane != 0) return;
  if (gridDim.y == 1) {
    op.finish(r, scratch[0], row);
  } else {
    parts[r * gridDim.y + blockIdx.y] = scratch[0];
  }
}

// One warp per row.
template <class Op>
__global__ void merge_parts(Op op, Rows rows, const typename Op::State* parts, int count) {
  const int64_t r = blockIdx.x;
  auto state = op.identity();
  for (int p = static_cast<int>(threadIdx.x); p < count; p += static_cast<int>(cuda::kWarp)) {
    state = op.merge(state, parts[r * count + p]);
  }
  for (int step = 16; step > 0; step /= 2) state = op.merge(state, shuffle_down(state, step));
  if (threadIdx.x == 0) op.finish(r, state, r * rows.stride);
}

template <class Op>
void reduce(std::string_view name, const Op& op, const Tensor& x) {
  Rows rows{x.size(0), x.size(1), x.stride(0), x.stride(1), x.size(1)};
  if (rows.count == 0) return;
  if (rows.size > 2048 || (rows.size > 512 && rows.count < 2048)) {
    const int64_t parts =
        std::max<int64_t>(1, std::min(kBlocks / rows.count, rows.size / (8 * kThreads)));
    rows.chunk = (rows.size + parts - 1) / parts;
    const Tensor partial = empty(
        {parts > 1 ? rows.count * parts * static_cast<int64_t>(sizeof(typename Op::State)) : 0},
        {DType::u8, x.device()});
    auto* states = static_cast<typename Op::State*>(partial.raw_data());
    const auto count = static_cast<unsigned>(rows.count);
    cuda::launch(name, x.device(), reduce_long<Op>, dim3(count, static_cast<unsigned>(parts)),
                 kThreads, 0, op, rows, states);
    if (parts > 1) {
      cuda::launch(name, x.device(), merge_parts<Op>, count, cuda::kWarp, 0, op, rows, states,
                   parts);
    }
    return;
  }
  // Where neighbouring rows are neighbours in memory and there are many, threads take one each.
  int64_t lanes = 1;
  if (!(rows.stride == 1 && rows.step != 1 && rows.count >= 16384)) {
    while (lanes < static_cast<int64_t>(cuda::kWarp) && lanes * 4 < rows.size) lanes *= 2;
  }
  const int64_t per_block = kThreads / lanes;
  cuda::launch(name, x.device(), reduce_short<Op>,
               static_cast<unsigned>((rows.count + per_block - 1) / per_block), kThreads, 0, op,
               rows, lanes);
}

struct Best {
  struct State {
    uint64_t key;
    int64_t index;
  };
  Elements x;
  bool largest;
  int64_t* y;

  __device__ State identity() const { return {0, INT64_MAX}; }
  __device__ void absorb(State& s, int64_t at, int64_t i, int64_t) const {
    s = merge(s, {largest ? x.key(at) : x.reversed_key(at, true), i});
  }
  __device__ State merge(State a, State b) const {
    return b.key > a.key || (b.key == a.key && b.index < a.index) ? b : a;
  }
  __device__ void finish(int64_t r, State s, int64_t) const { y[r] = s.index; }
};

// Moments of the differences from the row's first entry, which is near enough to the mean to keep
// the digits. Writes the variance, or what the gradient needs: the mean and g's factor.
template <class T>
struct Moments {
  struct State {
    double sum;
    double squares;
  };
  const T* x;
  T* y;
  const T* grad;
  double* mean_and_scale;
  double size;
  double divisor;
  bool root;

  __device__ State identity() const { return {0, 0}; }
  __device__ void absorb(State& s, int64_t at, int64_t, int64_t row) const {
    const double d = convert<double>(x[at]) - convert<double>(x[row]);
    s.sum += d;
    s.squares += d * d;
  }
  __device__ State merge(State a, State b) const { return {a.sum + b.sum, a.squares + b.squares}; }
  __device__ void finish(int64_t r, State s, int64_t row) const {
    double squares = s.squares - s.sum * (s.sum / size);
    if (squares < 0) squares = 0;
    if (y != nullptr) {
      const double variance = squares / divisor;
      y[r] = convert<T>(root ? ::sqrt(variance) : variance);
      return;
    }
    double scale = 2 / divisor;
    if (root) scale = squares == 0 ? 0 : 1 / ::sqrt(squares * divisor);
    mean_and_scale[2 * r] = convert<double>(x[row]) + s.sum / size;
    mean_and_scale[2 * r + 1] = scale * convert<double>(grad[r]);
  }
};

template <class T>
struct LogSumExp {
  struct State {
    T top;
    T sum;  // Σ exp(x − top)
  };
  const T* x;
  T* y;

  static constexpr T kLowest = -std::numeric_limits<T>::infinity();

  __device__ State identity() const { return {kLowest, 0}; }
  __device__ void absorb(State& s, int64_t at, int64_t, int64_t) const {
    const T value = x[at];
    if (value > s.top) {
      s = {value, s.sum * math::exp(s.top - value) + 1};
    } else if (value == s.top) {
      s.sum += value == kLowest ? T(0) : T(1);
    } else {
      s.sum += math::exp(value - s.top);
    }
  }
  __device__ State merge(State a, State b) const {
    if (b.top > a.top) {
      const State higher = b;
      b = a;
      a = higher;
    }
    return {a.top, a.sum + (a.top == b.top ? b.sum : b.sum * math::exp(b.top - a.top))};
  }
  __device__ void finish(int64_t r, State s, int64_t) const {
    const bool infinite = s.top == kLowest || s.top == -kLowest;
    y[r] = infinite && s.sum == s.sum ? s.top : s.top + math::log(s.sum);
  }
};

template <class T>
struct Norm {
  using State = double;
  const T* x;
  T* y;

  __device__ State identity() const { return 0; }
  __device__ void absorb(State& s, int64_t at, int64_t, int64_t) const {
    s += static_cast<double>(x[at]) * static_cast<double>(x[at]);
  }
  __device__ State merge(State a, State b) const { return a + b; }
  __device__ void finish(int64_t r, State s, int64_t) const { y[r] = static_cast<T>(::sqrt(s)); }
};

template <class T>
__global__ void variance_gradient(T* gx, const T* x, const double* mean_and_scale, int64_t total,
                                  int64_t size, int64_t stride, int64_t step) {
  for (int64_t k = cuda::thread_index(); k < total; k += cuda::thread_count()) {
    const int64_t r = k / size;
    const double value = convert<double>(x[r * stride + (k - r * size) * step]);
    gx[k] = convert<T>(mean_and_scale[2 * r + 1] * (value - mean_and_scale[2 * r]));
  }
}

template <class T>
__global__ void logsumexp_gradient(T* gx, const T* x, const T* y, const T* grad, int64_t total,
                                   int64_t size, int64_t stride, int64_t step) {
  for (int64_t k = cuda::thread_index(); k < total; k += cuda::thread_count()) {
    const int64_t r = k / size;
    const T top = y[r];
    const T value = x[r * stride + (k - r * size) * step];
    const bool infinite = top - top != 0 && top == top;
    gx[k] = infinite ? T(0) : grad[r] * math::exp(value - top);
  }
}

Tensor row_results(const Tensor& x) {
  return empty({x.size(0)}, {x.dtype(), x.device()});
}

template <class T>
Moments<T> moments_of(const Tensor& x, double divisor, bool root) {
  return {cuda::data<T>(x), nullptr, nullptr, nullptr, static_cast<double>(x.size(1)),
          divisor,          root};
}

}  // namespace

Tensor best_rows_cuda(const Tensor& x, bool largest) {
  const Tensor y = empty({x.size(0)}, {DType::i64, x.device()});
  reduce(largest ? "max" : "min", Best{Elements(x), largest, cuda::data<int64_t>(y)}, x);
  return y;
}

Tensor variance_rows_cuda(const Tensor& x, double divisor, bool root) {
  const Tensor y = row_results(x);
  cuda::visit_floating("var", x.dtype(), [&]<class T>() {
    Moments<T> op = moments_of<T>(x, divisor, root);
    op.y = cuda::data<T>(y);
    reduce("var", op, x);
  });
  return y;
}

Tensor variance_backward_cuda(const Tensor& x, const Tensor& grad, double divisor, bool root) {
  const Tensor gx = empty(x.shape(), {x.dtype(), x.device()});
  if (x.numel() == 0) return gx;
  const Tensor g = kernels::contiguous(grad);
  const Tensor statistics = empty({x.size(0), 2}, {DType::f64, x.device()});
  cuda::visit_floating("var", x.dtype(), [&]<class T>() {
    Moments<T> op = moments_of<T>(x, divisor, root);
    op.grad = cuda::data<T>(g);
    op.mean_and_scale = cuda::data<double>(statistics);
    reduce("var", op, x);
    cuda::launch("var", x.device(), variance_gradient<T>, cuda::blocks_for(x.numel(), kThreads),
                 kThreads, 0, cuda::data<T>(gx), cuda::data<T>(x), cuda::data<double>(statistics),
                 x.numel(), x.size(1), x.stride(0), x.stride(1));
  });
  return gx;
}

Tensor logsumexp_rows_cuda(const Tensor& x) {
  const Tensor y = row_results(x);
  visit_floating("logsumexp", x.dtype(), [&]<class T>() {
    reduce("logsumexp", LogSumExp<T>{cuda::data<T>(x), cuda::data<T>(y)}, x);
  });
  return y;
}

Tensor logsumexp_backward_cuda(const Tensor& x, const Tensor& y, const Tensor& grad) {
  const Tensor gx = empty(x.shape(), {x.dtype(), x.device()});
  const Tensor g = kernels::contiguous(grad);
  visit_floating("logsumexp", x.dtype(), [&]<class T>() {
    cuda::launch("logsumexp", x.device(), logsumexp_gradient<T>,
                 cuda::blocks_for(x.numel(), kThreads), kThreads, 0, cuda::data<T>(gx),
                 cuda::data<T>(x), cuda::data<T>(y), cuda::data<T>(g), x.numel(), x.size(1),
                 x.stride(0), x.stride(1));
  });
  return gx;
}

Tensor norm_rows_cuda(const Tensor& x) {
  const Tensor y = row_results(x);
  visit_floating("norm", x.dtype(), [&]<class T>() {
    reduce("norm", Norm<T>{cuda::data<T>(x), cuda::data<T>(y)}, x);
  });
  return y;
}

}  // namespace tessera::detail
