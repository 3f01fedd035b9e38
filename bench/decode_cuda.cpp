// The decode engine on a CUDA device: time of one step of attention and the rate at which keys and
// values are read, beside the rates of a plain copy and of a sum over the same bytes. Inputs take
// turns, so that none waits in the cache.
//
//   build/cuda/bench/bench_decode_cuda [filter]
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "tessera/attention/engines/decode.h"
#include "tessera/attention/kv_cache.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/tape.h"
#include "tessera/bench/on_device.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/random.h"

namespace tessera {
namespace {

constexpr int64_t kPage = 64;

struct Row {
  int64_t batch, key_heads, group, length, width;
  DType dtype = DType::bf16;
  int64_t queries = 1;
};

// Every twentieth position, another set for every head.
Tensor twentieth(const Row& r) {
  std::vector<int32_t> list;
  const int64_t count = r.length / 20;
  for (int64_t h = 0; h < r.batch * r.key_heads; ++h) {
    for (int64_t i = 0; i < count; ++i) {
      list.push_back(static_cast<int32_t>((i * 20 + (i * 7 + h * 3) % 20) % r.length));
    }
  }
  return kernels::to_device(from_values(list, {r.batch, r.key_heads, count}), kGpu);
}

struct Inputs {
  Tensor query;
  KvCache contiguous, paged;
};

void run(const Row& r, const std::string& filter) {
  const std::string name = fmt::format("{} B {} Hk {} g {} N {} n {} D {}", r.dtype, r.batch,
                                       r.key_heads, r.group, r.queries, r.length, r.width);
  if (name.find(filter) == std::string::npos) return;
  const Shape keys{r.batch, r.key_heads, r.length, r.width};
  const double bytes = 2.0 * static_cast<double>(keys.numel() * size_of(r.dtype));
  // More than the L2 cache holds, all together.
  const auto copies = static_cast<size_t>(std::clamp(2e8 / bytes, 1.0, 24.0));
  const int64_t pages = r.batch * (r.length / kPage + 1);
  std::vector<Inputs> inputs;
  for (size_t i = 0; i < copies; ++i) {
    inputs.push_back({normal({r.batch, r.key_heads * r.group, r.queries, r.width}, r.dtype),
                      KvCache(r.length),
                      KvCache(r.length, {.pool = std::make_shared<PagePool>(pages, kPage)})});
    const Tensor k = normal(keys, r.dtype), v = normal(keys, r.dtype);
    inputs.back().contiguous.append(k, v);
    inputs.back().paged.append(k, v);
  }
  const Tensor list = twentieth(r);
  const auto one = [&](KvCache Inputs::*cache, const DecodeOptions& options) {
    return seconds_of([&](size_t i) {
      const Inputs& in = inputs[i % copies];
      decode_attention(in.query, in.*cache, options);
    });
  };
  const double plain = one(&Inputs::contiguous, {}), paged = one(&Inputs::paged, {});
  const double listed = one(&Inputs::contiguous, {.selected = list});
  const double copied = seconds_of([&](size_t i) {
    const CacheView& view = inputs[i % copies].contiguous.view();
    kernels::copy(view.value, view.key);
  });
  const double listed_bytes = bytes / 20;
  fmt::print("{:<42} {:>8.1f} {:>6.0f} {:>8.1f} {:>6.0f} {:>8.1f} {:>6.0f} {:>8.1f} {:>6.0f}\n",
             name, plain * 1e6, bytes / plain / 1e9, paged * 1e6, bytes / paged / 1e9, listed * 1e6,
             listed_bytes / listed / 1e9, copied * 1e6, bytes / copied / 1e9);
  std::fflush(stdout);
}

// Rates of the memory alone: 1 GiB copied, and read.
void print_rates() {
  const Tensor x = zeros({int64_t{1} << 28}, {DType::f32, kGpu}), y = empty_like(x);
  const double bytes = static_cast<double>(x.numel()) * 4;
  const double copy = seconds_of([&](size_t) { kernels::copy(y, x); });
  const double read = seconds_of([&](size_t) { sum(x); });
  fmt::print("memory: copy {:.0f} GB/s (read and written), read {:.0f} GB/s\n",
             2 * bytes / copy / 1e9, bytes / read / 1e9);
}

}  // namespace
}  // namespace tessera

int main(int count, char** arguments) {
  using namespace tessera;
  if (cuda_device_count() == 0) {
    fmt::print("bench_decode_cuda: no CUDA device\n");
    return 0;
  }
  const NoGrad off;
  const std::string filter = count > 1 ? arguments[1] : "";
  print_rates();
  fmt::print("{:<42} {:>15} {:>15} {:>15} {:>15}\n", "", "contiguous", "pages of 64",
             "5 % of the keys", "copy of keys");
  fmt::print("{:<42} {:>8} {:>6} {:>8} {:>6} {:>8} {:>6} {:>8} {:>6}\n", "shape", "us", "GB/s",
             "us", "GB/s", "us", "GB/s", "us", "GB/s");
  for (const Row& row :
       {Row{1, 12, 1, 1024, 64}, Row{64, 12, 1, 1024, 64}, Row{1, 8, 4, 8192, 128},
        Row{1, 8, 4, 32768, 128}, Row{1, 8, 4, 131072, 128}, Row{16, 8, 4, 8192, 128},
        Row{64, 8, 4, 2048, 128}, Row{1, 8, 8, 131072, 64}, Row{1, 32, 1, 32768, 128},
        Row{8, 4, 4, 8192, 256}, Row{16, 8, 4, 8192, 128, DType::bf16, 4},
        Row{16, 8, 4, 8192, 128, DType::f16}, Row{1, 12, 1, 1024, 64, DType::f32},
        Row{64, 12, 1, 1024, 64, DType::f32}}) {
    run(row, filter);
  }
  return 0;
}
