#include "tessera/core/create.h"
#include "tessera/core/cuda/kernel.h"
#include "tessera/core/cuda/runtime.h"
#include "tessera/core/cuda/walk.h"
#include "tessera/core/kernels/accumulate_cuda.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/kernels/fill.h"

namespace tessera::kernels {
namespace {

using cuda::Walk;

constexpr int kThreads = 256;
constexpr int64_t kBlocks = 528;  // enough to fill a device, and the same for every device
constexpr int kUnroll = 4;        // loads in flight per thread

template <class T>
using Total = std::conditional_t<std::is_integral_v<T>, int64_t, cuda::Compute<T>>;

// What a sum reads and writes. Parts of the reduced elements are summed apart where the outputs
// alone would leave the device idle; their sums are added by a second sum.
struct Plan {
  const void* x = nullptr;
  void* y = nullptr;
  DType to = DType::f32;
  Walk kept;
  Walk reduced;
  int64_t chunk = 0;  // reduced elements of a part
};

template <class T>
__device__ void put(void* y, DType to, int64_t i, T value) {
  if constexpr (std::is_same_v<T, int64_t>) {
    if (to == DType::i32) {
      static_cast<int32_t*>(y)[i] = static_cast<int32_t>(value);
      return;
    }
  }
  if constexpr (std::is_same_v<T, float>) {
    if (to == DType::bf16) {
      static_cast<bfloat16*>(y)[i] = convert<bfloat16>(value);
      return;
    }
    if (to == DType::f16) {
      static_cast<float16*>(y)[i] = convert<float16>(value);
      return;
    }
  }
  static_cast<T*>(y)[i] = value;
}

// Sum of x[first], x[first + lanes], … below `last` in the order of the walk.
template <class T>
__device__ Total<T> sum_strided(const T* x, const Walk& walk, int64_t first, int64_t last,
                                int64_t lanes) {
  Total<T> total[kUnroll] = {};
  int64_t k = first;
  for (; k + (kUnroll - 1) * lanes < last; k += kUnroll * lanes) {
    T value[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) value[u] = x[walk.offset(k + u * lanes)];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) total[u] += convert<Total<T>>(value[u]);
  }
  for (; k < last; k += lanes) total[0] += convert<Total<T>>(x[walk.offset(k)]);
  return (total[0] + total[1]) + (total[2] + total[3]);
}

// Sum of every lanes-th piece of a dense row; single elements up to an aligned address and after.
template <class T>
__device__ Total<T> sum_dense(const T* x, int64_t n, int lane, int lanes) {
  constexpr int kWidth = cuda::kVectorSize<T>;
  const auto over = static_cast<int>(reinterpret_cast<uintptr_t>(x) % 16 / sizeof(T));
  const int64_t head = over == 0 ? 0 : min(n, static_cast<int64_t>(kWidth - over));
  const int64_t pieces = (n - head) / kWidth;
  const T* body = x + head;
  Total<T> total[kWidth] = {};
  for (int64_t k = lane; k < head; k += lanes) total[0] += convert<Total<T>>(x[k]);
  int64_t k = lane;
  for (; k + (kUnroll - 1) * lanes < pieces; k += kUnroll * lanes) {
    cuda::Vector<T, kWidth> value[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      value[u] = cuda::load<kWidth>(body + (k + u * lanes) * kWidth);
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
#pragma unroll
      for (int e = 0; e < kWidth; ++e) total[e] += convert<Total<T>>(value[u][e]);
    }
  }
  for (; k < pieces; k += lanes) {
    const auto value = cuda::load<kWidth>(body + k * kWidth);
#pragma unroll
    for (int e = 0; e < kWidth; ++e) total[e] += convert<Total<T>>(value[e]);
  }
  for (k = pieces * kWidth + lane; k < n - head; k += lanes) {
    total[0] += convert<Total<T>>(body[k]);
  }
#pragma unroll
  for (int width = kWidth / 2; width > 0; width /= 2) {
#pragma unroll
    for (int e = 0; e < width; ++e) total[e] += total[e + width];
  }
  return total[0];
}

// One output per group of `lanes` threads, a power of two up to a warp.
template <class T>
__global__ void sum_short_rows(Plan plan, int lanes) {
  const int64_t row = cuda::thread_index() >> (__ffs(lanes) - 1);
  const int lane = static_cast<int>(threadIdx.x) % lanes;
  Total<T> total{};
  if (row < plan.kept.count) {
    const T* x = static_cast<const T*>(plan.x) + plan.kept.offset(row);
    const int64_t n = plan.reduced.count;
    total = lanes == cuda::kWarp && plan.reduced.rank == 1 && plan.reduced.stride[0] == 1
                ? sum_dense(x, n, lane, lanes)
                : sum_strided(x, plan.reduced, lane, n, lanes);
  }
  for (int step = lanes / 2; step > 0; step /= 2) {
    total += __shfl_xor_sync(cuda::kAllLanes, total, step);
  }
  if (row < plan.kept.count && lane == 0) put(plan.y, plan.to, row, total);
}

// One output, or one part of it, per block: y (outputs, parts).
template <class T>
__global__ void sum_long_rows(Plan plan) {
  __shared__ Total<T> scratch[kThreads / cuda::kWarp];
  const int64_t row = blockIdx.x;
  const int64_t first = blockIdx.y * plan.chunk;
  const int64_t last = min(plan.reduced.count, first + plan.chunk);
  const T* x = static_cast<const T*>(plan.x) + plan.kept.offset(row);
  const int lane = static_cast<int>(threadIdx.x);
  Total<T> total = plan.reduced.rank == 1 && plan.reduced.stride[0] == 1
                       ? sum_dense(x + first, max(int64_t{0}, last - first), lane, kThreads)
                       : sum_strided(x, plan.reduced, first + lane, last, kThreads);
  total = cuda::block_reduce(total, cuda::Sum{}, Total<T>{}, scratch);
  if (threadIdx.x == 0) put(plan.y, plan.to, row * gridDim.y + blockIdx.y, total);
}

// Threads along x own kWidth neighbouring outputs each, threads along y share the reduced elements
// of a part: y (parts, outputs).
template <class T, int kWidth>
__global__ void sum_columns(Plan plan) {
  __shared__ Total<T> scratch[kThreads * kWidth];
  const int64_t piece = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const bool owns = piece * kWidth < plan.kept.count;
  const int64_t last = min(plan.reduced.count, (blockIdx.y + 1) * plan.chunk);
  const int64_t lanes = blockDim.y;
  Total<T> total[kWidth] = {};
  if (owns) {
    const T* x = static_cast<const T*>(plan.x) + plan.kept.offset(piece * kWidth);
    int64_t k = blockIdx.y * plan.chunk + threadIdx.y;
    for (; k + (kUnroll - 1) * lanes < last; k += kUnroll * lanes) {
      cuda::Vector<T, kWidth> value[kUnroll];
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        value[u] = cuda::load<kWidth>(x + plan.reduced.offset(k + u * lanes));
      }
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
#pragma unroll
        for (int e = 0; e < kWidth; ++e) total[e] += convert<Total<T>>(value[u][e]);
      }
    }
    for (; k < last; k += lanes) {
      const auto value = cuda::load<kWidth>(x + plan.reduced.offset(k));
#pragma unroll
      for (int e = 0; e < kWidth; ++e) total[e] += convert<Total<T>>(value[e]);
    }
  }
  // Threads of one column are blockDim.x apart.
  const unsigned thread = threadIdx.y * blockDim.x + threadIdx.x;
#pragma unroll
  for (int e = 0; e < kWidth; ++e) scratch[e * kThreads + thread] = total[e];
  for (unsigned half = blockDim.y / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.y >= half) continue;
#pragma unroll
    for (int e = 0; e < kWidth; ++e) {
      scratch[e * kThreads + thread] += scratch[e * kThreads + thread + half * blockDim.x];
    }
  }
  if (!owns || threadIdx.y != 0) return;
  const int64_t at = blockIdx.y * plan.kept.count + piece * kWidth;
#pragma unroll
  for (int e = 0; e < kWidth; ++e) put(plan.y, plan.to, at + e, scratch[e * kThreads + thread]);
}

int64_t up_to_power_of_two(int64_t n, int64_t most) {
  int64_t p = 1;
  while (p < n && p < most) p *= 2;
  return p;
}

// Cuts the reduced elements into at most `most` parts of whole multiples of `unit`; the number of
// parts.
unsigned cut(Plan& plan, int64_t most, int64_t unit) {
  const int64_t n = plan.reduced.count;
  const int64_t parts = std::max<int64_t>(1, std::min(most, n / unit));
  plan.chunk = ((n + parts - 1) / parts + unit - 1) / unit * unit;
  return static_cast<unsigned>((n + plan.chunk - 1) / plan.chunk);
}

// Runs `launch` into y, or by way of the sums of parts: of shape (outputs, parts), or transposed.
template <class T, class Launch>
void in_parts(Plan& plan, const Tensor& y, unsigned parts, bool parts_first, const Launch& launch) {
  if (parts == 1) return launch();
  const int64_t outputs = plan.kept.count;
  const Shape shape = parts_first ? Shape{parts, outputs} : Shape{outputs, parts};
  const Tensor partial = empty(shape, {dtype_of<Total<T>>(), y.device()});
  plan.y = partial.raw_data();
  plan.to = partial.dtype();
  launch();
  sum_cuda(y, partial, {parts_first ? 0 : 1});
}

template <class T>
void sum_rows(Plan& plan, const Tensor& y) {
  const int64_t rows = plan.kept.count, n = plan.reduced.count;
  if (n > 4096 || (n > 512 && rows < 2048)) {
    const unsigned parts = cut(plan, std::max<int64_t>(1, kBlocks / rows), 8192);
    in_parts<T>(plan, y, parts, false, [&] {
      cuda::launch("sum", y.device(), sum_long_rows<T>, dim3(static_cast<unsigned>(rows), parts),
                   kThreads, 0, plan);
    });
    return;
  }
  const int64_t lanes = up_to_power_of_two((n + kUnroll - 1) / kUnroll, cuda::kWarp);
  const int64_t per_block = kThreads / lanes;
  cuda::launch("sum", y.device(), sum_short_rows<T>,
               static_cast<unsigned>((rows + per_block - 1) / per_block), kThreads, 0, plan, lanes);
}

template <class T, int kWidth>
void sum_columns_of(Plan& plan, const Tensor& y) {
  const int64_t pieces = (plan.kept.count + kWidth - 1) / kWidth;
  // Narrow blocks leave more threads for the reduced elements, wide ones need fewer parts.
  const int64_t narrow =
      pieces >= 32 * kBlocks ? 32 : up_to_power_of_two(pieces, kWidth == 1 ? 32 : 8);
  int64_t height = 1;
  while (height < kThreads / narrow && height * 2 * kUnroll <= plan.reduced.count) height *= 2;
  const int64_t width = up_to_power_of_two(pieces, kThreads / height);
  const int64_t blocks = (pieces + width - 1) / width;
  const unsigned parts = cut(plan, std::max<int64_t>(1, std::min<int64_t>(256, kBlocks / blocks)),
                             std::max<int64_t>(64, height * 2 * kUnroll));
  in_parts<T>(plan, y, parts, true, [&] {
    cuda::launch("sum", y.device(), sum_columns<T, kWidth>,
                 dim3(static_cast<unsigned>(blocks), parts),
                 dim3(static_cast<unsigned>(width), static_cast<unsigned>(height)), 0, plan);
  });
}

template <class T>
void sum_typed(Plan& plan, const Tensor& y) {
  const int64_t across = std::abs(plan.kept.step()), along = std::abs(plan.reduced.step());
  if (plan.kept.rank == 0 || along == 1 || (across != 1 && along < across)) {
    return sum_rows<T>(plan, y);
  }
  constexpr int kWidth = sizeof(T) == 1 ? 8 : cuda::kVectorSize<T>;
  bool pieces = plan.kept.in_pieces(kWidth) &&
                reinterpret_cast<uintptr_t>(plan.x) % (kWidth * sizeof(T)) == 0;
  for (size_t d = 0; d < static_cast<size_t>(plan.reduced.rank); ++d) {
    pieces = pieces && plan.reduced.stride[d] % kWidth == 0;
  }
  pieces ? sum_columns_of<T, kWidth>(plan, y) : sum_columns_of<T, 1>(plan, y);
}

// The reduced dimensions from the greatest stride to the least: their order is free.
Walk reduced_walk(const Tensor& x, const Shape& reduced) {
  Shape order = reduced;
  std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    const int64_t s = std::abs(x.strides()[a]), t = std::abs(x.strides()[b]);
    return s == t ? a < b : s == 0 || (t != 0 && s > t);
  });
  Shape sizes;
  Strides strides;
  for (int64_t d : order) {
    sizes.push_back(x.shape()[d]);
    strides.push_back(x.strides()[d]);
  }
  return {sizes, strides};
}

Walk kept_walk(const Tensor& x, const Shape& reduced) {
  Shape sizes;
  Strides strides;
  for (int64_t d = 0; d < x.rank(); ++d) {
    if (std::find(reduced.begin(), reduced.end(), d) != reduced.end()) continue;
    sizes.push_back(x.shape()[d]);
    strides.push_back(x.strides()[d]);
  }
  return {sizes, strides};
}

constexpr int kAddWidth = 8;

template <class To, class From>
__global__ void add_kernel(cuda::Strided<2> s) {
  using C = std::conditional_t<std::is_same_v<To, double>, double, cuda::Compute<To>>;
  To* to = static_cast<To*>(s.data[0]);
  const From* from = static_cast<const From*>(s.data[1]);
  const auto plus = [](To a, From b) { return convert<To>(convert<C>(a) + convert<C>(b)); };
  const unsigned step = gridDim.x * blockDim.x;
  const unsigned thread = blockIdx.x * blockDim.x + threadIdx.x;
  int64_t at[2];
  if (s.vector && s.stride[0][0] == 1 && s.stride[1][0] == 1) {
    for (uint64_t i = uint64_t{thread} * kAddWidth; i < s.count; i += uint64_t{step} * kAddWidth) {
      s.offsets(static_cast<unsigned>(i), at);
      if (i + kAddWidth <= s.count) {
        auto a = cuda::load<kAddWidth>(to + at[0]);
        const auto b = cuda::load<kAddWidth>(from + at[1]);
#pragma unroll
        for (int e = 0; e < kAddWidth; ++e) a[e] = plus(a[e], b[e]);
        cuda::store(to + at[0], a);
      } else {
        for (unsigned e = 0; i + e < s.count; ++e)
          to[at[0] + e] = plus(to[at[0] + e], from[at[1] + e]);
      }
    }
    return;
  }
  for (uint64_t i = thread; i < s.count; i += step) {
    s.offsets(static_cast<unsigned>(i), at);
    to[at[0]] = plus(to[at[0]], from[at[1]]);
  }
}

template <class To, class From>
void add_typed(const Tensor& sum, const Tensor& x) {
  const Tensor* operands[] = {&sum, &x};
  cuda::for_each_launch<2>(sum.shape(), operands, kAddWidth, [&](const cuda::Strided<2>& s) {
    cuda::launch("add_in_place", sum.device(), add_kernel<To, From>,
                 cuda::blocks_for(s.count, kThreads * (s.vector ? kAddWidth : 1)), kThreads, 0, s);
  });
}

}  // namespace

void sum_cuda(const Tensor& y, const Tensor& x, const Shape& reduced) {
  if (y.numel() == 0) return;
  if (x.numel() == 0) return fill(y, 0);
  Plan plan;
  plan.x = x.raw_data();
  plan.y = y.raw_data();
  plan.to = y.dtype();
  plan.kept = kept_walk(x, reduced);
  plan.reduced = reduced_walk(x, reduced);
  visit_dtype(x.dtype(), [&]<class T>() { sum_typed<T>(plan, y); });
}

void add_in_place_cuda(const Tensor& sum, const Tensor& x) {
  if (is_floating(sum.dtype()) && is_floating(x.dtype())) {
    cuda::visit_floating("add_in_place", sum.dtype(), [&]<class To>() {
      cuda::visit_floating("add_in_place", x.dtype(),
                           [&]<class From>() { add_typed<To, From>(sum, x); });
    });
    return;
  }
  const Tensor other = cast(x, sum.dtype());  // what an integer takes in is an integer first
  visit_dtype(sum.dtype(), [&]<class T>() { add_typed<T, T>(sum, other); });
}

}  // namespace tessera::kernels
