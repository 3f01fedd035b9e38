// The dense attention engine on a CUDA device: rates of its forward and its backward on random q,
// k, v packed as (B, N, 3, H, D). Operations: 4·N²·D per head forward and 10·N²·D backward, half of
// it under a causal mask. Inputs take turns, so that none waits in a cache.
//
//   build/cuda/bench/bench_attention_cuda [filter]
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "tessera/attention/engines/dense_cuda.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/random.h"
#include "tessera/core/view.h"

namespace tessera {
namespace {

constexpr Device kGpu{Device::Kind::cuda, 0};

struct Row {
  int64_t batch, heads, length, width;
  bool causal;
  DType dtype = DType::bf16;
};

struct Inputs {
  Tensor q, k, v, grad_out;
  AttentionResult result;
};

Tensor normal(const Shape& shape, DType dtype) {
  static uint64_t stream = 0;
  const Tensor x = empty(shape, {DType::f32, kGpu});
  kernels::normal(x, 0, 1, {5, ++stream});
  return kernels::cast(x, dtype);
}

Inputs inputs_of(const Row& r, const AttentionOptions& options) {
  const Tensor packed = normal({r.batch, r.length, 3, r.heads, r.width}, r.dtype);
  auto part = [&](int64_t i) { return views::transpose(views::select(packed, 2, i), 1, 2); };
  const Tensor weights = normal({r.batch, r.length, r.heads, r.width}, r.dtype);
  Inputs in{part(0), part(1), part(2), views::transpose(weights, 1, 2), {}};
  in.result = dense_forward_cuda(in.q, in.k, in.v, options);
  return in;
}

// Median over nine groups of the time of one call.
double seconds_of(const std::function<void(size_t)>& call) {
  using Clock = std::chrono::steady_clock;
  const auto timed = [&](size_t calls) {
    synchronize(kGpu);
    const auto start = Clock::now();
    for (size_t i = 0; i < calls; ++i) call(i);
    synchronize(kGpu);
    return std::chrono::duration<double>(Clock::now() - start).count() / static_cast<double>(calls);
  };
  timed(3);
  const auto calls = static_cast<size_t>(std::clamp(0.02 / timed(3), 3.0, 300.0));
  std::vector<double> groups;
  for (int i = 0; i < 9; ++i) groups.push_back(timed(calls));
  std::nth_element(groups.begin(), groups.begin() + 4, groups.end());
  return groups[4];
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
  const double entries = double(r.batch * r.heads) * double(r.length) * double(r.length) *
                         double(r.width) / (r.causal ? 2 : 1);
  fmt::print("{:<36} {:>10.1f} {:>9.1f} {:>10.1f} {:>9.1f}\n", name, forward * 1e6,
             4 * entries / forward / 1e12, backward * 1e6, 10 * entries / backward / 1e12);
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
  fmt::print("{:<36} {:>10} {:>9} {:>10} {:>9}\n", "shape", "forward us", "TFLOP/s", "backward us",
             "TFLOP/s");
  const std::string filter = count > 1 ? arguments[1] : "";
  for (const Row& row :
       {Row{32, 12, 1024, 64, true}, Row{32, 12, 1024, 64, false}, Row{4, 16, 4096, 64, true},
        Row{1, 16, 16384, 64, true}, Row{1, 16, 16384, 64, false}, Row{64, 6, 256, 64, true},
        Row{32, 6, 1024, 128, true}, Row{1, 16, 16384, 128, true}, Row{1, 16, 16384, 128, false},
        Row{8, 8, 1024, 256, true}, Row{32, 12, 1024, 64, true, DType::f16},
        Row{4, 12, 1024, 64, true, DType::f32}}) {
    run(row, filter);
  }
  return 0;
}
