// The dense attention engine on a CUDA device: rates of its forward and its backward on random q,
// k, v packed as (B, N, 3, H, D). Operations: 4·N²·D per head forward and 10·N²·D backward, half of
// it under a causal mask. Inputs take turns, so that none waits in a cache.
//
//   build/cuda/bench/bench_attention_cuda [filter [any-order]]
//
// any-order: sums of gradients need not give the same bits on every run (core/deterministic.h).
#include <fmt/format.h>

#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "tessera/attention/engines/dense_cuda.h"
#include "tessera/bench/on_device.h"
#include "tessera/core/allocator.h"
#include "tessera/core/create.h"
#include "tessera/core/deterministic.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/random.h"
#include "tessera/core/view.h"

namespace tessera {
namespace {

struct Row {
  int64_t batch, heads, length, width;
  bool causal;
  DType dtype = DType::bf16;
};

struct Inputs {
  Tensor q, k, v, grad_out;
  AttentionResult result;
};

Inputs inputs_of(const Row& r, const AttentionOptions& options) {
  const Tensor packed = normal({r.batch, r.length, 3, r.heads, r.width}, r.dtype);
  auto part = [&](int64_t i) { return views::transpose(views::select(packed, 2, i), 1, 2); };
  const Tensor weights = normal({r.batch, r.length, r.heads, r.width}, r.dtype);
  Inputs in{part(0), part(1), part(2), views::transpose(weights, 1, 2), {}};
  in.result = dense_forward_cuda(in.q, in.k, in.v, options);
  return in;
}

void run(const Row& r, const std::string& filter) {
  const std::string name = fmt::format("{} B {} H {} N {} D {}{}", r.dtype, r.batch, r.heads,
                                       r.length, r.width, r.causal ? " causal" : "");
  if (name.find(filter) == std::string::npos) return;
  const AttentionOptions options{.causal = r.causal, .scale = 1 / std::sqrt(double(r.width))};
  std::vector<Inputs> inputs;
  for (int i = 0; i < 3; ++i) inputs.push_back(inputs_of(r, options));
  const double forward = seconds_of([&](size_t i) {
    const Inputs& in = inputs[i % inputs.size()];
    dense_forward_cuda(in.q, in.k, in.v, options);
  });
  const double backward = seconds_of([&](size_t i) {
    const Inputs& in = inputs[i % inputs.size()];
    dense_backward_cuda(in.q, in.k, in.v, in.result, in.grad_out, {}, options);
  });
  Allocator& memory = allocator(kGpu);
  memory.reset_peak();
  const int64_t live = memory.stats().live;
  dense_backward_cuda(inputs[0].q, inputs[0].k, inputs[0].v,
                      dense_forward_cuda(inputs[0].q, inputs[0].k, inputs[0].v, options),
                      inputs[0].grad_out, {}, options);
  const double peak = static_cast<double>(memory.stats().peak - live) / (1 << 20);
  const double entries = double(r.batch * r.heads) * double(r.length) * double(r.length) *
                         double(r.width) / (r.causal ? 2 : 1);
  fmt::print("{:<36} {:>10.1f} {:>8.1f} {:>11.1f} {:>8.1f} {:>8.1f} {:>9.1f}\n", name,
             forward * 1e6, 4 * entries / forward / 1e12, backward * 1e6,
             10 * entries / backward / 1e12, 14 * entries / (forward + backward) / 1e12, peak);
  std::fflush(stdout);
}

}  // namespace
}  // namespace tessera

int main(int count, char** arguments) {
  using namespace tessera;
  if (cuda_device_count() == 0) {
    fmt::print("bench_attention_cuda: no CUDA device\n");
    return 0;
  }
  fmt::print("{:<36} {:>10} {:>8} {:>11} {:>8} {:>8} {:>9}\n", "shape", "forward us", "TFLOP/s",
             "backward us", "TFLOP/s", "both", "peak MiB");
  const std::string filter = count > 1 ? arguments[1] : "";
  set_deterministic(count < 3 || std::string(arguments[2]) != "any-order");
  std::vector<Row> rows{{32, 12, 1024, 64, true}, {32, 12, 1024, 64, false},
                        {64, 6, 256, 64, true},   {32, 6, 1024, 128, true},
                        {8, 8, 1024, 256, true},  {32, 12, 1024, 64, true, DType::f16}};
  for (const int64_t width : {64, 128}) {  // beside bench/peers/attention.py
    for (const int64_t length : {4096, 8192, 32768}) {
      for (const bool causal : {true, false}) rows.push_back({1, 16, length, width, causal});
    }
  }
  rows.push_back({1, 8, 131072, 64, true});
  for (const Row& row : rows) {
    run(row, filter);
  }
  return 0;
}
