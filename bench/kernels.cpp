// Throughput of the kernels that carry a training step on the CPU.
#include <benchmark/benchmark.h>

#include "tessera/attention/engines/dense.h"
#include "tessera/autograd/ops/activation.h"
#include "tessera/autograd/ops/norm.h"
#include "tessera/autograd/ops/softmax.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/tape.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/kernels/gemm.h"
#include "tessera/core/random.h"

namespace tessera {
namespace {

constexpr int64_t kRows = 4096;
constexpr int64_t kWidth = 4096;

void set_bytes(benchmark::State& state, int64_t tensors) {
  state.SetBytesProcessed(state.iterations() * tensors * kRows * kWidth * 4);
}

void copy(benchmark::State& state) {
  const Tensor x = randn({kRows, kWidth});
  const Tensor y = empty_like(x);
  for (auto step : state) kernels::copy(y, x);
  set_bytes(state, 2);
}
BENCHMARK(copy)->Unit(benchmark::kMillisecond)->UseRealTime();

template <Tensor (*F)(const Tensor&)>
void unary_forward(benchmark::State& state) {
  NoGrad off;
  const Tensor x = randn({kRows, kWidth});
  for (auto step : state) benchmark::DoNotOptimize(F(x));
  set_bytes(state, 2);
}

template <Tensor (*F)(const Tensor&)>
void unary_backward(benchmark::State& state) {
  Tensor x = randn({kRows, kWidth});
  x.set_requires_grad();
  const Tensor g = randn({kRows, kWidth});
  for (auto step : state) {
    state.PauseTiming();
    const Tensor y = F(x);
    state.ResumeTiming();
    benchmark::DoNotOptimize(grad({y}, {x}, {g}));
  }
  set_bytes(state, 3);
}

Tensor softmax_rows(const Tensor& x) {
  return softmax(x, -1);
}
Tensor layer_norm_rows(const Tensor& x) {
  return layer_norm(x);
}

BENCHMARK(unary_forward<gelu>)->Name("gelu forward")->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(unary_backward<gelu>)
    ->Name("gelu backward")
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();
BENCHMARK(unary_forward<gelu_tanh>)
    ->Name("gelu_tanh forward")
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();
BENCHMARK(unary_backward<gelu_tanh>)
    ->Name("gelu_tanh backward")
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();
BENCHMARK(unary_forward<softmax_rows>)
    ->Name("softmax forward")
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();
BENCHMARK(unary_backward<softmax_rows>)
    ->Name("softmax backward")
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();
BENCHMARK(unary_forward<layer_norm_rows>)
    ->Name("layer_norm forward")
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();
BENCHMARK(unary_backward<layer_norm_rows>)
    ->Name("layer_norm backward")
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

void gemm(benchmark::State& state) {
  const int64_t n = state.range(0);
  const Tensor a = randn({n, n});
  const Tensor b = randn({n, n});
  const Tensor c = empty({n, n});
  for (auto step : state) kernels::gemm(c, a, b);
  state.counters["GFLOP/s"] = benchmark::Counter(static_cast<double>(2 * n * n * n) * 1e-9,
                                                 benchmark::Counter::kIsIterationInvariantRate);
}
BENCHMARK(gemm)->Arg(256)->Arg(1024)->Unit(benchmark::kMillisecond)->UseRealTime();

void attention(benchmark::State& state) {
  NoGrad off;
  const int64_t n = state.range(0);
  const Tensor q = randn({1, 8, n, 64});
  for (auto step : state) benchmark::DoNotOptimize(dense_attention(q, q, q, {.causal = true}));
  state.counters["GFLOP/s"] = benchmark::Counter(static_cast<double>(2 * 8 * n * n * 64) * 1e-9,
                                                 benchmark::Counter::kIsIterationInvariantRate);
}
BENCHMARK(attention)->Arg(1024)->Arg(4096)->Unit(benchmark::kMillisecond)->UseRealTime();

}  // namespace
}  // namespace tessera

BENCHMARK_MAIN();
