// The generic tile on a CUDA device: rates of its forward and its backward over rules, scores and
// sources of tiles, by the entries that count: 4 · D operations each forward and 10 · D backward,
// the scores computed anew not among them.
//
//   build/cuda/bench/bench_tiles_cuda [filter]
#include <fmt/format.h>

#include <cmath>
#include <cstdio>
#include <string>

#include "tessera/attention/engines/neighborhood.h"
#include "tessera/attention/engines/scores.h"
#include "tessera/attention/engines/tiles_cuda.h"
#include "tessera/bench/on_device.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/random.h"
#include "tessera/core/view.h"

namespace tessera {
namespace {

struct Row {
  std::string name;
  int64_t heads, length, width;
  DType dtype;
  AttentionOptions options;
  bool tables = false;  // whether their gradients are wanted
  const WindowRule* windows = nullptr;
};

void run(const Row& r, const std::string& filter) {
  const std::string name =
      fmt::format("{} {} H {} N {} D {}", r.dtype, r.name, r.heads, r.length, r.width);
  if (name.find(filter) == std::string::npos) return;
  auto part = [&] {
    return views::transpose(normal({1, r.length, r.heads, r.width}, r.dtype), 1, 2);
  };
  const double scale = 1 / std::sqrt(static_cast<double>(r.width));
  TiledAttention a{part(), part(), part(), scale, {}, r.options.score};
  TensorList keep;
  a.rule = EntryRule("bench", r.options, a.query.shape(), a.key.shape(), kGpu, keep);
  if (r.windows != nullptr) a.source = tiles_of(*r.windows);
  const Tensor grad_out = part();
  const int64_t before = score_entries();
  const AttentionResult result = attend_tiles_cuda(a);
  const double entries =
      static_cast<double>(score_entries() - before) * static_cast<double>(r.width);
  const double forward = seconds_of([&] { attend_tiles_cuda(a); });
  const double backward =
      seconds_of([&] { attend_tiles_backward_cuda(a, result, grad_out, {}, r.tables); });
  fmt::print("{:<44} {:>10.1f} {:>9.1f} {:>11.1f} {:>9.1f}\n", name, forward * 1e6,
             4 * entries / forward / 1e12, backward * 1e6, 10 * entries / backward / 1e12);
  std::fflush(stdout);
}

Tensor table(const Shape& shape) {
  return normal(shape, DType::f32);
}

}  // namespace
}  // namespace tessera

int main(int count, char** arguments) {
  using namespace tessera;
  if (cuda_device_count() == 0) {
    fmt::print("bench_tiles_cuda: no CUDA device\n");
    return 0;
  }
  const std::string filter = count > 1 ? arguments[1] : "";
  fmt::print("{:<44} {:>10} {:>9} {:>11} {:>9}\n", "shape", "forward us", "TFLOP/s", "backward us",
             "TFLOP/s");
  constexpr DType bf16 = DType::bf16, f32 = DType::f32;
  const auto causal = [](const Score& score) {
    return AttentionOptions{.causal = true, .score = score};
  };
  const AttentionOptions plain{.causal = true};
  const WindowRule small = neighborhood_windows({.shape = {56, 56}, .window = {7, 7}});
  const WindowRule large = neighborhood_windows({.shape = {56, 56}, .window = {31, 31}});
  for (const Row& row :
       {Row{"causal", 16, 4096, 64, f32, plain}, Row{"causal", 16, 4096, 128, f32, plain},
        Row{"causal", 16, 2048, 64, DType::f64, plain}, Row{"causal", 16, 4096, 64, bf16, plain},
        Row{"causal", 16, 4096, 128, bf16, plain}, Row{"causal", 16, 4096, 256, bf16, plain},
        Row{"full", 16, 4096, 64, bf16, {}},
        Row{"window 512", 16, 32768, 64, bf16, {.causal = true, .left = 511}},
        Row{"softcap", 16, 4096, 64, bf16, causal(softcap(30))},
        Row{"alibi", 16, 4096, 64, bf16, causal(alibi(table({16})))},
        Row{"alibi, slopes", 16, 4096, 64, bf16, causal(alibi(table({16}))), true},
        Row{"offset bias", 16, 4096, 64, bf16, causal(offset_bias(table({16, 4096}), 4095)), true},
        Row{"bucket bias", 16, 4096, 64, bf16, causal(bucket_bias(table({32, 16}), 128, false)),
            true},
        Row{"bias", 16, 4096, 64, bf16, causal(bias(table({1, 1, 4096, 4096}))), true},
        Row{"bias of keys", 16, 4096, 64, bf16, causal(bias(table({1, 1, 1, 4096}))), true},
        Row{"7 x 7 of 56 x 56", 16, 3136, 32, bf16, {}, false, &small},
        Row{"31 x 31 of 56 x 56", 16, 3136, 32, bf16, {}, false, &large},
        Row{"31 x 31, grid bias",
            16,
            3136,
            32,
            bf16,
            {.score = grid_bias(table({16, 61, 61}), large)},
            true,
            &large}}) {
    run(row, filter);
  }
  return 0;
}
