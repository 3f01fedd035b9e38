// Backward of the dense engine in halves, and what every backward in halves needs of the rows.
#include "tessera/attention/engines/backward_kernels.h"
#include "tessera/core/create.h"

namespace tessera::dense {
namespace {

template <class T>
struct StatisticsArguments {
  Sizes sizes;
  Heads<const T> out, grad_out;
  const float* lse;
  const float* grad_lse;  // may be null
  float* exponent;
  float* delta;
  int padded;
};

// kLanes neighbouring threads per query, 16 bytes each.
template <class T, int kLanes>
__global__ void statistics_kernel(const __grid_constant__ StatisticsArguments<T> a) {
  const Sizes& s = a.sizes;
  const int64_t rows = static_cast<int64_t>(s.batch) * s.heads * a.padded;
  const int64_t at = cuda::thread_index() / kLanes;  // rows · kLanes is a multiple of the warp
  if (at >= rows) return;
  const int row = static_cast<int>(at % a.padded);
  const int head = static_cast<int>(at / a.padded);
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int64_t from = static_cast<int64_t>(head) * s.queries + row;
  float dot = 0;
  if (row < s.queries && lane * 8 < s.value_width) {
    const int b = head / s.heads, h = head % s.heads;
    const auto o = cuda::load<8>(a.out.at(b, h) + row * a.out.row + lane * 8);
    const auto g = cuda::load<8>(a.grad_out.at(b, h) + row * a.grad_out.row + lane * 8);
#pragma unroll
    for (int e = 0; e < 8; ++e) dot += convert<float>(o[e]) * convert<float>(g[e]);
  }
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) {
    dot += __shfl_xor_sync(cuda::kAllLanes, dot, step);
  }
  if (lane > 0) return;
  float exponent = INFINITY;
  if (row < s.queries) {
    exponent = a.lse[from] == -INFINITY ? 0 : a.lse[from] * kLog2e;
    if (a.grad_lse != nullptr) dot -= a.grad_lse[from];
  }
  a.exponent[at] = exponent;
  a.delta[at] = dot;
}

template <class T, int kLanes>
void run_statistics(const StatisticsArguments<T>& a, Device device) {
  const int64_t threads = int64_t{a.padded} * a.sizes.batch * a.sizes.heads * kLanes;
  cuda::launch("dense_attention", device, statistics_kernel<T, kLanes>,
               grid_of((threads + 255) / 256), 256, 0, a);
}

template <class T>
void run(const BackwardArguments<T, AllTiles>& a, Device device) {
  auto keys = [&]<class C, bool kValues, bool kKeys>() {
    run_keys<C, kValues, kKeys>("dense_attention", a, device);
  };
  auto queries = [&]<class C>() { run_queries<C>("dense_attention", a, device); };
  const int width = std::max(a.sizes.width, a.sizes.value_width);
  if (width <= 64) {
    using C = BackwardShape<64, 4, 2, 64, true, 2>;
    keys.template operator()<C, true, true>();
    queries.template operator()<C>();
  } else if (width <= 128) {
    using C = BackwardShape<128, 8, 1, 64, true, 1>;
    keys.template operator()<C, true, true>();
    queries.template operator()<C>();
  } else {
    using C = BackwardShape<256, 4, 1, 32, false, 1>;
    keys.template operator()<C, true, false>();
    keys.template operator()<C, false, true>();
    queries.template operator()<C>();
  }
}

}  // namespace

RowStatistics row_statistics(const Sizes& s, const Tensor& out, const Tensor& lse,
                             const Tensor& grad_out, const Tensor& grad_lse) {
  const int padded = (s.queries + kStatisticsRows - 1) / kStatisticsRows * kStatisticsRows;
  const Options f32{DType::f32, out.device()};
  const RowStatistics rows{empty({s.batch, s.heads, padded}, f32),
                           empty({s.batch, s.heads, padded}, f32), padded};
  auto launch = [&]<class T>() {
    const StatisticsArguments<T> a{s,
                                   Heads<const T>(out),
                                   Heads<const T>(grad_out),
                                   cuda::data<float>(lse),
                                   grad_lse.defined() ? cuda::data<float>(grad_lse) : nullptr,
                                   cuda::data<float>(rows.exponent),
                                   cuda::data<float>(rows.delta),
                                   padded};
    if (s.value_width <= 64) {
      run_statistics<T, 8>(a, out.device());
    } else if (s.value_width <= 128) {
      run_statistics<T, 16>(a, out.device());
    } else {
      run_statistics<T, 32>(a, out.device());
    }
  };
  if (out.dtype() == DType::bf16) {
    launch.template operator()<bfloat16>();
  } else {
    launch.template operator()<float16>();
  }
  return rows;
}

void backward_halves(const Sizes& s, const Tensor& q, const Tensor& k, const Tensor& v,
                     const Tensor& out, const Tensor& lse, const Tensor& grad_out,
                     const Tensor& grad_lse, const DenseGradients& grads) {
  const RowStatistics rows = row_statistics(s, out, lse, grad_out, grad_lse);
  if (q.dtype() == DType::bf16) {
    run(backward_arguments<bfloat16>(s, AllTiles{}, rows, q, k, v, grad_out, grads), q.device());
  } else {
    run(backward_arguments<float16>(s, AllTiles{}, rows, q, k, v, grad_out, grads), q.device());
  }
}

}  // namespace tessera::dense
