// The gather engine on a CUDA device: forward and backward over random lists, per query and by
// groups, in microseconds and in gigabytes per second of rows read by index (each pair of a query
// and a key reads two rows forward, four backward).
//
//   build/cuda/bench/bench_gather_cuda [filter]
#include <fmt/format.h>

#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "tessera/attention/engines/gather_cuda.h"
#include "tessera/bench/on_device.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/random.h"
#include "tessera/core/view.h"

namespace tessera {
namespace {

struct Row {
  int64_t heads, length, width, listed;
  int64_t group = 0;  // queries in a group; 0: a list per query
  DType dtype = DType::bf16;
};

Tensor indices(const Shape& shape, int64_t size) {
  static uint64_t stream = 0;
  Generator random(6, ++stream);
  std::vector<int32_t> ids(static_cast<size_t>(shape.numel()));
  for (int32_t& id : ids) id = static_cast<int32_t>(random.below(size));
  return kernels::to_device(from_values(ids, shape), kGpu);
}

// Groups that partition the tokens, as balanced clusters do.
Tensor partition(int64_t heads, int64_t groups, int64_t width) {
  std::vector<int32_t> ids;
  for (int64_t h = 0; h < heads; ++h) {
    const RandomKey key{7, static_cast<uint64_t>(h)};
    for (int64_t i = 0; i < groups * width; ++i) {
      ids.push_back(static_cast<int32_t>(permuted_index(i, groups * width, key)));
    }
  }
  return kernels::to_device(from_values(ids, {1, heads, groups, width}), kGpu);
}

void run(const Row& r, const std::string& filter) {
  const std::string name = fmt::format(
      "{} H {} N {} D {} {}", r.dtype, r.heads, r.length, r.width,
      r.group > 0 ? fmt::format("groups of {}", r.group) : fmt::format("lists of {}", r.listed));
  if (name.find(filter) == std::string::npos) return;
  const AttentionOptions options{.scale = 1 / std::sqrt(double(r.width))};
  const Shape shape{1, r.length, r.heads, r.width};
  auto heads = [&] { return views::transpose(normal(shape, r.dtype), 1, 2); };
  const Tensor q = heads(), k = heads(), v = heads(), grad_out = heads();
  const bool grouped = r.group > 0;
  const Tensor lists = grouped ? partition(r.heads, r.length / r.group, r.group)
                               : indices({1, r.heads, r.length, r.listed}, r.length);
  const Tensor queries = grouped ? lists : Tensor();
  const AttentionResult result = lists::attend_cuda(q, k, v, queries, lists, options);
  const double forward = seconds_of([&] { lists::attend_cuda(q, k, v, queries, lists, options); });
  const double backward = seconds_of(
      [&] { lists::attend_backward_cuda(q, k, v, queries, lists, result, grad_out, {}, options); });
  const double pairs = double(r.heads) * double(r.length) * double(grouped ? r.group : r.listed);
  const double bytes = pairs * double(r.width * size_of(r.dtype));
  fmt::print("{:<38} {:>10.1f} {:>8.0f} {:>8.1f} {:>10.1f} {:>8.0f} {:>8.1f}\n", name,
             forward * 1e6, 2 * bytes / forward / 1e9, 4 * pairs * double(r.width) / forward / 1e12,
             backward * 1e6, 4 * bytes / backward / 1e9,
             10 * pairs * double(r.width) / backward / 1e12);
  std::fflush(stdout);
}

}  // namespace
}  // namespace tessera

int main(int count, char** arguments) {
  using namespace tessera;
  if (cuda_device_count() == 0) {
    fmt::print("bench_gather_cuda: no CUDA device\n");
    return 0;
  }
  fmt::print("{:<38} {:>10} {:>8} {:>8} {:>10} {:>8} {:>8}\n", "shape", "forward us", "GB/s",
             "TFLOP/s", "backward us", "GB/s", "TFLOP/s");
  const std::string filter = count > 1 ? arguments[1] : "";
  for (const Row& row :
       {Row{8, 16384, 64, 64}, Row{8, 16384, 64, 256}, Row{8, 16384, 128, 64},
        Row{8, 16384, 64, 64, 0, DType::f32}, Row{8, 16384, 64, 0, 128}, Row{8, 16384, 64, 0, 256},
        Row{8, 16384, 64, 0, 512}, Row{8, 16384, 128, 0, 256}}) {
    run(row, filter);
  }
  return 0;
}
