// The linear attention engine on a CUDA device: tokens a second, forward and forward with backward,
// for lengths from 2k to 128k at a fixed number of tokens. A token is one of a sequence, with all
// its heads. Inputs take turns, so that none waits in a cache. The peer: bench/peers/linear.py.
//
//   build/cuda/bench/bench_linear_cuda [filter]
#include <fmt/format.h>

#include <cstdio>
#include <string>
#include <vector>

#include "tessera/attention/engines/linear.h"
#include "tessera/autograd/tape.h"
#include "tessera/bench/on_device.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/random.h"
#include "tessera/core/view.h"

namespace tessera {
namespace {

constexpr double kDeviation =
    0.1;  // of queries, keys and values: sums over long sequences stay small

struct Row {
  int64_t batch, heads, length, width;
  std::string decay = "fixed";  // none, fixed, learned (fixed, with its gradient), token
  bool packed = false;  // q, k, v are views of one (B, N, 3, H, D) tensor, else (B, H, N, D)
  DType dtype = DType::bf16;
};

struct Inputs {
  Tensor q, k, v, log_decay, weights;
};

Tensor log_decay_of(const Row& r) {
  if (r.decay == "none") return {};
  const bool per_token = r.decay == "token";
  Tensor x =
      empty(per_token ? Shape{r.batch, r.heads, r.length} : Shape{r.heads}, {DType::f32, kGpu});
  kernels::uniform(x, -0.1, -0.001, {6, 1});
  return r.decay == "fixed" ? x : x.set_requires_grad();
}

Inputs inputs_of(const Row& r) {
  const Shape shape{r.batch, r.heads, r.length, r.width};
  Inputs in{{}, {}, {}, log_decay_of(r), normal(shape, r.dtype, kDeviation)};
  const Tensor packed =
      r.packed ? normal({r.batch, r.length, 3, r.heads, r.width}, r.dtype, kDeviation) : Tensor();
  int64_t i = 0;
  for (Tensor* x : {&in.q, &in.k, &in.v}) {
    *x = r.packed ? views::transpose(views::select(packed, 2, i++), 1, 2)
                  : normal(shape, r.dtype, kDeviation);
    x->set_requires_grad();
  }
  return in;
}

void run(const Row& r, const std::string& filter) {
  const std::string name =
      fmt::format("{} B {} H {} N {} D {} decay {}{}", r.dtype, r.batch, r.heads, r.length, r.width,
                  r.decay, r.packed ? " packed" : "");
  if (name.find(filter) == std::string::npos) return;
  std::vector<Inputs> inputs;
  for (int i = 0; i < 2; ++i) inputs.push_back(inputs_of(r));
  const double forward = seconds_of([&](size_t i) {
    const NoGrad off;
    const Inputs& in = inputs[i % inputs.size()];
    linear_attention(in.q, in.k, in.v, in.log_decay);
  });
  const double both = seconds_of([&](size_t i) {
    const Inputs& in = inputs[i % inputs.size()];
    TensorList wanted{in.q, in.k, in.v};
    if (in.log_decay.defined() && in.log_decay.requires_grad()) wanted.push_back(in.log_decay);
    const Tensor y = linear_attention(in.q, in.k, in.v, in.log_decay).output;
    grad({y}, wanted, {in.weights});
  });
  const double tokens = double(r.batch * r.length);
  fmt::print("{:<52} {:>9.1f} {:>9.1f} {:>9.1f} {:>9.1f}\n", name, forward * 1e6,
             tokens / forward / 1e6, both * 1e6, tokens / both / 1e6);
  std::fflush(stdout);
}

}  // namespace
}  // namespace tessera

int main(int count, char** arguments) {
  using namespace tessera;
  if (cuda_device_count() == 0) {
    fmt::print("bench_linear_cuda: no CUDA device\n");
    return 0;
  }
  fmt::print("{:<52} {:>9} {:>9} {:>9} {:>9}\n", "shape", "fwd us", "M tok/s", "fwd+bwd",
             "M tok/s");
  std::vector<Row> rows;
  for (int64_t n = 2048; n <= 131072; n *= 2) rows.push_back({131072 / n, 16, n, 64});
  for (int64_t width : {64, 128}) {
    for (const char* decay : {"none", "fixed", "learned", "token"}) {
      rows.push_back({1, 16, 32768, width, decay});
    }
  }
  rows.push_back({1, 16, 32768, 64, "fixed", true});
  rows.push_back({8, 16, 4096, 64, "fixed", true});
  rows.push_back({1, 16, 4096, 64, "fixed"});
  rows.push_back({1, 4, 32768, 64, "fixed", false, DType::f32});
  const std::string filter = count > 1 ? arguments[1] : "";
  for (const Row& row : rows) run(row, filter);
  return 0;
}
