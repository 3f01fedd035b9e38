#include "tessera/autograd/ops/elements_cuda.h"
#include "tessera/autograd/ops/scan_cuda.h"
#include "tessera/core/create.h"
#include "tessera/core/cuda/kernel.h"
#include "tessera/core/cuda/runtime.h"
#include "tessera/core/kernels/copy.h"

// A scan is an op with a State and
//   identity()                  the state of no entries
//   merge(a, b)                 the state of a and then b
//   entry(row, i)               the state of entry i of the row that begins at offset `row`
//   put(row, i, before, until)  writes result i from the states without and with its entry
// Scans from the end to the start have `reverse`.
namespace tessera::detail {
namespace {

constexpr int64_t kThreads = 256;
constexpr int64_t kBlocks = 528;  // enough to fill a device, and the same for every device

// Scans `count` entries with a block: take(k) gives them, give(k, before, until) gets the states.
// Returns the state after all; `scratch` holds one state per warp.
template <class Op, class Take, class Give>
__device__ typename Op::State scan_block(const Op& op, typename Op::State carry, int64_t first,
                                         int64_t last, typename Op::State* scratch,
                                         const Take& take, const Give& give) {
  const unsigned lane = threadIdx.x % cuda::kWarp, warp = threadIdx.x / cuda::kWarp;
  const unsigned warps = blockDim.x / cuda::kWarp;
  for (int64_t begin = first; begin < last; begin += blockDim.x) {
    const int64_t k = begin + threadIdx.x;
    auto until = k < last ? take(k) : op.identity();
    for (unsigned step = 1; step < cuda::kWarp; step *= 2) {
      const auto left = shuffle_up(until, static_cast<int>(step));
      if (lane >= step) until = op.merge(left, until);
    }
    auto before = shuffle_up(until, 1);
    if (lane == 0) before = op.identity();
    __syncthreads();
    if (lane == cuda::kWarp - 1) scratch[warp] = until;
    __syncthreads();
    auto prefix = carry;
    for (unsigned w = 0; w < warps; ++w) {
      if (w == warp) prefix = carry;
      carry = op.merge(carry, scratch[w]);
    }
    if (k < last) give(k, op.merge(prefix, before), op.merge(prefix, until));
  }
  return carry;
}

struct Rows {
  int64_t size = 0;
  int64_t chunk = 0;  // entries of a part
};

// A row, or a part of it, per block; parts begin with their carried state in `carries`.
template <class Op>
__global__ void scan_rows(Op op, Rows rows, const typename Op::State* carries) {
  __shared__ typename Op::State scratch[cuda::kWarp];
  const int64_t row = static_cast<int64_t>(blockIdx.x) * rows.size;
  const int64_t first = blockIdx.y * rows.chunk, last = min(rows.size, first + rows.chunk);
  const auto place = [&](int64_t k) { return op.reverse ? rows.size - 1 - k : k; };
  using State = typename Op::State;
  scan_block(
      op, carries == nullptr ? op.identity() : carries[blockIdx.x * gridDim.y + blockIdx.y], first,
      last, scratch, [&](int64_t k) { return op.entry(row, place(k)); },
      [&](int64_t k, const State& before, const State& until) {
        op.put(row, place(k), before, until);
      });
}

// The state of every part by itself.
template <class Op>
__global__ void total_parts(Op op, Rows rows, typename Op::State* totals) {
  __shared__ typename Op::State scratch[cuda::kWarp];
  const int64_t row = static_cast<int64_t>(blockIdx.x) * rows.size;
  const int64_t first = blockIdx.y * rows.chunk, last = min(rows.size, first + rows.chunk);
  using State = typename Op::State;
  const State total = scan_block(
      op, op.identity(), first, last, scratch,
      [&](int64_t k) { return op.entry(row, op.reverse ? rows.size - 1 - k : k); },
      [](int64_t, const State&, const State&) {});
  if (threadIdx.x == 0) totals[blockIdx.x * gridDim.y + blockIdx.y] = total;
}

// From the totals of a row's parts to the states before each, in place.
template <class Op>
__global__ void carry_parts(Op op, typename Op::State* totals, int64_t parts) {
  __shared__ typename Op::State scratch[cuda::kWarp];
  using State = typename Op::State;
  State* row = totals + blockIdx.x * parts;
  scan_block(
      op, op.identity(), 0, parts, scratch, [&](int64_t k) { return row[k]; },
      [&](int64_t k, const State& before, const State&) { row[k] = before; });
}

template <class Op>
void scan(std::string_view name, const Op& op, const Tensor& x) {
  using State = typename Op::State;
  const Device device = x.device();
  const auto count = static_cast<unsigned>(x.size(0));
  Rows rows{x.size(1), x.size(1)};
  if (x.numel() == 0) return;
  const int64_t parts = std::min<int64_t>(kBlocks / x.size(0), rows.size / (16 * kThreads));
  if (parts < 2) {
    int64_t threads = cuda::kWarp;
    while (threads < kThreads && threads < rows.size) threads *= 2;
    cuda::launch(name, device, scan_rows<Op>, count, static_cast<unsigned>(threads), 0, op, rows,
                 nullptr);
    return;
  }
  rows.chunk = (rows.size + parts - 1) / parts;
  const Tensor memory =
      empty({x.size(0) * parts * static_cast<int64_t>(sizeof(State))}, {DType::u8, device});
  auto* states = static_cast<State*>(memory.raw_data());
  const dim3 grid(count, static_cast<unsigned>(parts));
  cuda::launch(name, device, total_parts<Op>, grid, kThreads, 0, op, rows, states);
  cuda::launch(name, device, carry_parts<Op>, count, kThreads, 0, op, states, parts);
  cuda::launch(name, device, scan_rows<Op>, grid, kThreads, 0, op, rows, states);
}

template <class W>
struct Sum {
  using State = W;
  Elements x;
  Results y;
  bool exclusive;
  bool reverse;
  __device__ State identity() const { return 0; }
  __device__ State merge(State a, State b) const { return a + b; }
  __device__ State entry(int64_t row, int64_t i) const { return x.at<W>(row + i); }
  __device__ void put(int64_t row, int64_t i, State before, State until) const {
    y.put(row + i, exclusive ? before : until);
  }
};

template <class W>
struct Product {
  using State = W;
  Elements x;
  Results y;
  static constexpr bool reverse = false;
  __device__ State identity() const { return 1; }
  __device__ State merge(State a, State b) const { return a * b; }
  __device__ State entry(int64_t row, int64_t i) const { return x.at<W>(row + i); }
  __device__ void put(int64_t row, int64_t i, State, State until) const { y.put(row + i, until); }
};

struct LogSum {
  struct State {
    double top;
    double sum;  // Σ exp(x − top)
  };
  Elements x;
  Results y;
  static constexpr bool reverse = false;
  __device__ State identity() const { return {-INFINITY, 0}; }
  __device__ State merge(const State& a, const State& b) const {
    if (a.top == b.top) return {a.top, a.sum + b.sum};
    return a.top > b.top ? State{a.top, a.sum + b.sum * ::exp(b.top - a.top)}
                         : State{b.top, a.sum * ::exp(a.top - b.top) + b.sum};
  }
  // NaN is kept in the sum: it has no place in the order of the maxima.
  __device__ State entry(int64_t row, int64_t i) const {
    const double value = x.at<double>(row + i);
    if (value != value) return {-INFINITY, value};
    return {value, value == -INFINITY ? 0.0 : 1.0};
  }
  __device__ void put(int64_t row, int64_t i, const State&, const State& s) const {
    const bool infinite = s.top == INFINITY || s.top == -INFINITY;
    y.put(row + i, infinite && s.sum == s.sum ? s.top : s.top + ::log(s.sum));
  }
};

struct RunningBest {
  struct State {
    uint64_t key;
    int64_t index;  // −1: no entry
  };
  Elements x;
  int64_t* y;
  static constexpr bool reverse = false;
  __device__ State identity() const { return {0, -1}; }
  __device__ State merge(const State& a, const State& b) const {
    return b.index >= 0 && (a.index < 0 || b.key > a.key) ? b : a;
  }
  __device__ State entry(int64_t row, int64_t i) const { return {x.key(row + i), i}; }
  __device__ void put(int64_t row, int64_t i, const State&, const State& until) const {
    y[row + i] = until.index;
  }
};

// s[i] = g[i] + m[i] s[i + 1] from the end, with the state s ↦ shift + factor · s. Of cumprod: m[i]
// = x[i + 1] and gx[i] = s[i] y[i − 1]. Of logcumsumexp: m[i] = exp(y[i] − y[i + 1]) and gx[i] =
// s[i] exp(x[i] − y[i]), 0 at infinities.
template <bool kLog>
struct Following {
  struct State {
    double factor;
    double shift;
  };
  Elements x;
  Elements y;
  Elements grad;
  Results gx;
  int64_t size;
  static constexpr bool reverse = true;

  __device__ static double ratio(double above, double below) {
    const bool infinite = below == INFINITY || below == -INFINITY;
    return infinite ? 0.0 : ::exp(above - below);
  }
  __device__ State identity() const { return {1, 0}; }
  __device__ State merge(const State& a, const State& b) const {
    return {a.factor * b.factor, b.shift + b.factor * a.shift};
  }
  __device__ State entry(int64_t row, int64_t i) const {
    double factor = 0;  // nothing follows the last
    if (i + 1 < size) {
      factor = kLog ? ratio(y.at<double>(row + i), y.at<double>(row + i + 1))
                    : x.at<double>(row + i + 1);
    }
    return {factor, grad.at<double>(row + i)};
  }
  __device__ void put(int64_t row, int64_t i, const State&, const State& until) const {
    double before = 1;
    if constexpr (kLog) {
      before = ratio(x.at<double>(row + i), y.at<double>(row + i));
    } else if (i > 0) {
      before = y.at<double>(row + i - 1);
    }
    gx.put(row + i, until.shift * before);
  }
};

template <bool kLog>
Tensor backward(std::string_view name, const Tensor& x, const Tensor& y, const Tensor& grad) {
  const Tensor gx = empty(x.shape(), {x.dtype(), x.device()});
  const Tensor in = kernels::contiguous(x), out = kernels::contiguous(y);
  const Tensor g = kernels::contiguous(grad);
  scan(name, Following<kLog>{Elements(in), Elements(out), Elements(g), Results(gx), x.size(1)}, gx);
  return gx;
}

}  // namespace

Tensor cumsum_rows_cuda(const Tensor& x, bool exclusive, bool reverse) {
  const Tensor from = kernels::contiguous(x);
  const Tensor y = empty_like(from);
  if (is_integral(x.dtype())) {
    scan("cumsum", Sum<int64_t>{Elements(from), Results(y), exclusive, reverse}, from);
  } else {
    scan("cumsum", Sum<double>{Elements(from), Results(y), exclusive, reverse}, from);
  }
  return y;
}

Tensor cumprod_rows_cuda(const Tensor& x) {
  const Tensor from = kernels::contiguous(x);
  const Tensor y = empty_like(from);
  if (is_integral(x.dtype())) {
    scan("cumprod", Product<int64_t>{Elements(from), Results(y)}, from);
  } else {
    scan("cumprod", Product<double>{Elements(from), Results(y)}, from);
  }
  return y;
}

Tensor cumprod_backward_cuda(const Tensor& x, const Tensor& y, const Tensor& grad) {
  return backward<false>("cumprod", x, y, grad);
}

Tensor logcumsumexp_rows_cuda(const Tensor& x) {
  const Tensor from = kernels::contiguous(x);
  const Tensor y = empty_like(from);
  scan("logcumsumexp", LogSum{Elements(from), Results(y)}, from);
  return y;
}

Tensor logcumsumexp_backward_cuda(const Tensor& x, const Tensor& y, const Tensor& grad) {
  return backward<true>("logcumsumexp", x, y, grad);
}

Tensor running_best_cuda(const Tensor& x) {
  const Tensor from = kernels::contiguous(x);
  const Tensor index = empty(x.shape(), {DType::i64, x.device()});
  scan("cummax", RunningBest{Elements(from), cuda::data<int64_t>(index)}, from);
  return index;
}

}  // namespace tessera::detail
