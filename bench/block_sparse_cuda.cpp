// Block-sparse attention and sliding windows on a CUDA device in bf16: time, and the rate of the
// operations that count (4·D per visible entry forward, 10·D backward), beside dense attention.
//
//   build/cuda/bench/bench_block_sparse_cuda [filter [any-order]]
//
// any-order: sums of gradients need not give the same bits on every run (core/deterministic.h).
#include <fmt/format.h>

#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "tessera/attention/engines/block_sparse.h"
#include "tessera/attention/engines/dense.h"
#include "tessera/attention/patterns.h"
#include "tessera/autograd/tape.h"
#include "tessera/bench/on_device.h"
#include "tessera/core/create.h"
#include "tessera/core/deterministic.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/random.h"
#include "tessera/core/view.h"

namespace tessera {
namespace {

struct Inputs {
  Tensor q, k, v, weights;
  Inputs(int64_t heads, int64_t n, int64_t width) {
    auto one = [&] { return views::transpose(normal({1, n, heads, width}), 1, 2); };
    q = one().set_requires_grad();
    k = one().set_requires_grad();
    v = one().set_requires_grad();
    weights = one();
  }
};

using Attend = std::function<AttentionResult(const Inputs&)>;

void run(const std::string& name, const std::string& filter, const Inputs& in, double entries,
         const Attend& attend) {
  if (name.find(filter) == std::string::npos) return;
  double forward = 0;
  {
    NoGrad off;
    forward = seconds_of([&] { attend(in); });
  }
  const AttentionResult r = attend(in);
  const double backward = seconds_of([&] {
    grad({r.output}, {in.q, in.k, in.v}, {in.weights}, {.retain_graph = true});
  });
  const double work = entries * static_cast<double>(in.q.size(3));
  fmt::print("{:<44} {:>10.1f} {:>9.1f} {:>11.1f} {:>9.1f}\n", name, forward * 1e6,
             4 * work / forward / 1e12, backward * 1e6, 10 * work / backward / 1e12);
  std::fflush(stdout);
}

// Blocks that count with a probability of a tenth, and the diagonal.
BlockMask random_mask(int64_t heads, int64_t n, int64_t block, int64_t right) {
  const BlockGrid g{n, n, block, block, -1, right, kGpu};
  const Tensor scores = empty({1, heads, g.query_blocks(), g.key_blocks()}, {DType::f32, kGpu});
  kernels::uniform(scores, 0, 1, {6, static_cast<uint64_t>(block)});
  return threshold_blocks(g, scores, 0.9, 1);
}

// Windows of 512 keys that end with the query's own.
void run_window(int64_t heads, int64_t n, int64_t width, const std::string& filter) {
  const Inputs in(heads, n, width);
  const std::string shape = fmt::format("H {} N {} D {}", heads, n, width);
  const BlockMask window = all_blocks({n, n, 128, 128, 511, 0, kGpu});
  const double entries = static_cast<double>(heads) * static_cast<double>(count_entries(window));
  run("window 512 as 128-blocks " + shape, filter, in, entries,
      [&](const Inputs& x) { return block_sparse_attention(x.q, x.k, x.v, window); });
  run("window 512 " + shape, filter, in, entries, [](const Inputs& x) {
    return dense_attention(x.q, x.k, x.v, {.causal = true, .left = 511});
  });
}

void run_width(int64_t width, const std::string& filter) {
  const int64_t heads = 16, n = 32768;
  const Inputs in(heads, n, width);
  const std::string shape = fmt::format("H {} N {} D {}", heads, n, width);
  const auto h = static_cast<double>(heads), length = static_cast<double>(n);
  run("dense " + shape, filter, in, h * length * length,
      [](const Inputs& x) { return dense_attention(x.q, x.k, x.v); });
  run("dense causal " + shape, filter, in, h * length * (length + 1) / 2,
      [](const Inputs& x) { return dense_attention(x.q, x.k, x.v, {.causal = true}); });
  for (int64_t block : {128, 64}) {
    for (int64_t right : {-1, 0}) {
      const BlockMask m = random_mask(heads, n, block, right);
      run(fmt::format("10 % of {}-blocks{} {}", block, right == 0 ? " causal" : "", shape), filter,
          in, static_cast<double>(count_entries(m)),
          [&m](const Inputs& x) { return block_sparse_attention(x.q, x.k, x.v, m); });
    }
  }
  for (const int64_t length_of : {n, int64_t{131072}}) run_window(heads, length_of, width, filter);
}

}  // namespace
}  // namespace tessera

int main(int count, char** arguments) {
  using namespace tessera;
  if (cuda_device_count() == 0) {
    fmt::print("bench_block_sparse_cuda: no CUDA device\n");
    return 0;
  }
  fmt::print("{:<44} {:>10} {:>9} {:>11} {:>9}\n", "pattern", "forward us", "TFLOP/s",
             "backward us", "TFLOP/s");
  const std::string filter = count > 1 ? arguments[1] : "";
  set_deterministic(count < 3 || std::string(arguments[2]) != "any-order");
  for (int64_t width : {64, 128}) run_width(width, filter);
  return 0;
}
