// The attention engines on the CPU over lengths: time and the memory that a forward and a backward
// need beyond their inputs. Both must grow as the pattern says: dense in time with the square of
// the length, everything else with the length alone.
#include <benchmark/benchmark.h>

#include "tessera/attention/engines/block_sparse.h"
#include "tessera/attention/engines/dense.h"
#include "tessera/attention/engines/linear.h"
#include "tessera/attention/engines/neighborhood.h"
#include "tessera/attention/patterns.h"
#include "tessera/autograd/tape.h"
#include "tessera/core/allocator.h"
#include "tessera/core/create.h"
#include "tessera/core/random.h"

namespace tessera {
namespace {

using Engine = Tensor (*)(const Tensor& q, const Tensor& k, const Tensor& v);

constexpr int64_t kWindow = 256;

Tensor dense(const Tensor& q, const Tensor& k, const Tensor& v) {
  return dense_attention(q, k, v, {.causal = true}).output;
}
Tensor window(const Tensor& q, const Tensor& k, const Tensor& v) {
  return dense_attention(q, k, v, {.causal = true, .left = kWindow - 1}).output;
}
Tensor blocks(const Tensor& q, const Tensor& k, const Tensor& v) {
  const BlockGrid grid{.queries = q.size(2), .keys = k.size(2), .right = 0};
  return block_sparse_attention(q, k, v, sink_blocks(grid, 64, kWindow)).output;
}
Tensor neighborhood(const Tensor& q, const Tensor& k, const Tensor& v) {
  const WindowRule rule = neighborhood_windows({.shape = {q.size(2)}, .window = {kWindow + 1}});
  return neighborhood_attention(q, k, v, {.windows = rule}).output;
}
Tensor linear(const Tensor& q, const Tensor& k, const Tensor& v) {
  return linear_attention(q, k, v).output;
}

template <Engine kEngine>
void forward_and_backward(benchmark::State& state) {
  const Shape shape{1, 1, state.range(0), 64};
  Tensor q = randn(shape), k = randn(shape), v = randn(shape);
  for (Tensor* x : {&q, &k, &v}) x->set_requires_grad();
  const Tensor weights = randn(shape);
  Allocator& memory = allocator({});
  const int64_t entries = score_entries();
  int64_t peak = 0;
  for (auto step : state) {
    memory.reset_peak();
    const int64_t before = memory.stats().live;
    benchmark::DoNotOptimize(grad({kEngine(q, k, v)}, {q, k, v}, {weights}));
    peak = memory.stats().peak - before;
  }
  state.counters["peak MiB"] = static_cast<double>(peak) / (1 << 20);
  state.counters["entries"] =
      static_cast<double>((score_entries() - entries) / static_cast<int64_t>(state.iterations()));
}

#define TESSERA_LENGTHS(engine)           \
  BENCHMARK(forward_and_backward<engine>) \
      ->Name(#engine)                     \
      ->Arg(4096)                         \
      ->Arg(16384)                        \
      ->Arg(65536)                        \
      ->Iterations(1)                     \
      ->Unit(benchmark::kMillisecond)     \
      ->UseRealTime()

TESSERA_LENGTHS(dense);
TESSERA_LENGTHS(window);
TESSERA_LENGTHS(blocks);
TESSERA_LENGTHS(neighborhood);
TESSERA_LENGTHS(linear);

}  // namespace
}  // namespace tessera

BENCHMARK_MAIN();
