// The neighborhood engine on a CUDA device: time and useful rate (4 and 10 operations per entry and
// element of a row, forward and backward) over windows in one to three dimensions, bf16.
// bench/peers/neighborhood.py times the unfused composition of the same problems.
//
//   build/cuda/bench/bench_neighborhood_cuda [filter]
#include <fmt/format.h>

#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "tessera/attention/engines/neighborhood_cuda.h"
#include "tessera/bench/on_device.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/random.h"
#include "tessera/core/view.h"

namespace tessera {
namespace {

constexpr int64_t kHeads = 8;

Tensor heads(int64_t tokens, int64_t width) {
  return views::transpose(normal({1, tokens, kHeads, width}), 1, 2);
}

void run(const Neighborhood& n, int64_t width, bool biased, const std::string& filter) {
  const std::string name =
      fmt::format("{} window {}{} D {}{}", to_string(n.shape), n.window[0],
                  n.dilation.empty() ? "" : " dilated", width, biased ? " bias" : "");
  if (name.find(filter) == std::string::npos) return;
  const WindowRule rule = neighborhood_windows(n);
  NeighborhoodOptions options{.windows = rule, .scale = 1 / std::sqrt(double(width))};
  if (biased) {
    Shape table{kHeads};
    for (int64_t a = 0; a < n.shape.rank(); ++a) table.push_back(2 * n.window[0] - 1);
    options.score = grid_bias(kernels::cast(normal(table), DType::f32), rule);
  }
  const int64_t tokens = n.shape.numel();
  const Tensor q = heads(tokens, width), k = heads(tokens, width), v = heads(tokens, width);
  const Tensor grad = heads(tokens, width);
  const AttentionResult result = neighborhood_forward_cuda(q, k, v, options);
  const double forward = seconds_of([&] { neighborhood_forward_cuda(q, k, v, options); });
  const double backward =
      seconds_of([&] { neighborhood_backward_cuda(q, k, v, result, grad, {}, options, biased); });
  const double entries = double(count_entries(rule)) * double(kHeads * width);
  fmt::print("{:<40} {:>10.1f} {:>9.1f} {:>11.1f} {:>9.1f} {:>10.1f}\n", name, forward * 1e6,
             4 * entries / forward / 1e12, backward * 1e6, 10 * entries / backward / 1e12,
             (forward + backward) * 1e6);
  std::fflush(stdout);
}

}  // namespace
}  // namespace tessera

int main(int count, char** arguments) {
  using namespace tessera;
  if (cuda_device_count() == 0) {
    fmt::print("bench_neighborhood_cuda: no CUDA device\n");
    return 0;
  }
  const std::string filter = count > 1 ? arguments[1] : "";
  fmt::print("B 1 H {} bf16\n{:<40} {:>10} {:>9} {:>11} {:>9} {:>10}\n", kHeads, "shape",
             "forward us", "TFLOP/s", "backward us", "TFLOP/s", "both us");
  for (int64_t window : {7, 15, 31, 63}) run({{65536}, {window}}, 64, false, filter);
  for (int64_t window : {7, 15, 31, 63}) run({{128, 128}, {window}}, 64, false, filter);
  for (int64_t window : {7, 11, 15}) run({{16, 32, 32}, {window}}, 64, false, filter);
  run({{128, 128}, {7}}, 128, false, filter);
  run({{128, 128}, {31}}, 128, false, filter);
  run({{128, 128}, {7}, {4}}, 64, false, filter);
  run({{128, 128}, {7}}, 64, true, filter);
  run({{128, 128}, {31}}, 64, true, filter);
  return 0;
}
