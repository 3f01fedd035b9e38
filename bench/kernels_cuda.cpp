// Kernels that carry a training step on a CUDA device, at the sizes of GPT-2 124M with 32 sequences
// of 1024 tokens in bf16, beside two ceilings measured on the spot: a copy of 1 GiB and a product
// of 8192 × 8192 matrices. Bytes and operations are the least that the operation needs.
//
//   build/cuda/bench/bench_kernels_cuda [filter]
#include <fmt/format.h>

#include <functional>
#include <string>

#include "tessera/autograd/ops/activation.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/cross_entropy.h"
#include "tessera/autograd/ops/embedding.h"
#include "tessera/autograd/ops/norm.h"
#include "tessera/autograd/ops/softmax.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/tape.h"
#include "tessera/bench/on_device.h"
#include "tessera/core/create.h"
#include "tessera/core/deterministic.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/kernels/fill.h"
#include "tessera/core/kernels/gemm.h"
#include "tessera/core/kernels/gemm_cuda.h"
#include "tessera/core/random.h"
#include "tessera/core/view.h"
#include "tessera/train/optimizer.h"

namespace tessera {
namespace {

constexpr int64_t kTokens = 32 * 1024;
constexpr int64_t kWidth = 768;
constexpr int64_t kVocabulary = 50304;
constexpr int64_t kChunk = 4096;  // rows of logits

// Normal numbers: a product of zeros draws less power and is faster.
Tensor leaf(const Shape& shape, DType dtype = DType::bf16) {
  Tensor x = normal(shape, dtype);
  return x.set_requires_grad();
}

Tensor ids(const Shape& shape, int64_t below) {
  Generator random(3);
  std::vector<int64_t> values(static_cast<size_t>(shape.numel()));
  for (int64_t& value : values) value = random.below(below);
  return kernels::to_device(from_values(values, shape), kGpu);
}

class Table {
 public:
  explicit Table(std::string filter) : filter_(std::move(filter)) {
    fmt::print("{:<44} {:>10} {:>10} {:>10} {:>8}\n", "kernel", "us", "GB/s", "TFLOP/s", "ceiling");
  }

  // A row bound by memory and one bound by arithmetic; each gives its rate.
  double bytes(const std::string& name, double count, const std::function<void()>& call) {
    return row(name, count, copy_, 1e9, "{:<44} {:>10.1f} {:>10.0f} {:>10} {:>7.0f}%\n", call);
  }
  double flops(const std::string& name, double count, const std::function<void()>& call) {
    return row(name, count, product_, 1e12, "{:<44} {:>10.1f} {:>10} {:>10.1f} {:>7.0f}%\n", call);
  }
  void set_ceilings(double copy, double product) {
    copy_ = copy;
    product_ = product;
  }

 private:
  double row(const std::string& name, double count, double ceiling, double unit,
             std::string_view format, const std::function<void()>& call) {
    if (ceiling > 0 && name.find(filter_) == std::string::npos) return 0;
    const double seconds = seconds_of(call), rate = count / seconds;
    const double us = seconds * 1e6, shown = rate / unit;
    const double share = ceiling > 0 ? 100 * rate / ceiling : 100;
    if (unit == 1e9) {
      fmt::print(fmt::runtime(format), name, us, shown, "", share);
    } else {
      fmt::print(fmt::runtime(format), name, us, "", shown, share);
    }
    std::fflush(stdout);
    return rate;
  }

  std::string filter_;
  double copy_ = 0;
  double product_ = 0;
};

void ceilings(Table& table) {
  const Tensor from = normal({int64_t{1} << 29}), to = empty_like(from);
  const double copy =
      table.bytes("copy of 1 GiB", 2.0 * (1 << 30), [&] { kernels::copy(to, from); });
  const Tensor a = normal({8192, 8192}), b = normal({8192, 8192}), c = empty_like(a);
  const double product = table.flops("product 8192 x 8192 x 8192", 2.0 * 8192 * 8192 * 8192,
                                     [&] { kernels::gemm(c, a, b); });
  table.set_ceilings(copy, product);
}

// Y = X Wᵀ, dX = dY W and dW = dYᵀ X of one linear layer.
void linear(Table& table, const std::string& name, int64_t rows, int64_t in, int64_t out) {
  const Tensor x = normal({rows, in}), w = normal({out, in}), y = normal({rows, out});
  const Tensor dw = empty({out, in}, {DType::bf16, kGpu});
  const double count = 2.0 * static_cast<double>(rows) * static_cast<double>(in * out);
  const auto t = [](const Tensor& m) { return views::transpose(m, 0, 1); };
  table.flops(name + " forward", count, [&] { kernels::gemm(y, x, t(w)); });
  table.flops(name + " gradient of input", count, [&] { kernels::gemm(x, y, w); });
  table.flops(name + " gradient of weight", count, [&] { kernels::gemm(dw, t(y), x); });
}

// The products around a GELU with what cuBLASLt can do to their results on the way out.
void fused_products(Table& table, const std::string& name, int64_t rows, int64_t width) {
  const int64_t hidden = 4 * width;
  const Options like{DType::bf16, kGpu};
  const Tensor x = normal({rows, width}), g = normal({rows, width});
  const Tensor w1 = normal({hidden, width}), w2 = normal({width, hidden});
  const Tensor u = normal({rows, hidden}), h = empty({rows, hidden}, like);
  const Tensor dw = empty({width, hidden}, like);
  const Tensor bias = normal({hidden}), sums = empty({hidden}, like),
               out_sums = empty({width}, like);
  const double count = 2.0 * static_cast<double>(rows) * static_cast<double>(width * hidden);
  const auto row = [&](const char* what, const Tensor& c, const Tensor& a, const Tensor& b,
                       const kernels::Epilogue& epilogue) {
    if (!kernels::gemm_fuses(c, a, b, 0, epilogue)) return;
    table.flops(name + what, count, [&] { kernels::gemm_cuda(c, a, b, 1, 0, epilogue); });
  };
  const auto t = [](const Tensor& m) { return views::transpose(m, 0, 1); };
  row(" up", h, x, t(w1), {});
  row(" up + bias", h, x, t(w1), {.bias = bias});
  row(" up + bias + gelu", h, x, t(w1), {.bias = bias, .gelu_input = u});
  row(" down gradient", h, g, w2, {});
  row(" down gradient, gelu'", h, g, w2, {.gelu_at = u});
  row(" down gradient, gelu', sums", h, g, w2, {.gelu_at = u, .sums = sums});
  row(" down weight", dw, t(g), h, {});
  row(" down weight, sums", dw, t(g), h, {.sums = out_sums});
}

void products(Table& table) {
  fused_products(table, "768, 32768 rows:", kTokens, kWidth);
  fused_products(table, "384, 16384 rows:", kTokens / 2, kWidth / 2);

  linear(table, "qkv 768 to 2304", kTokens, kWidth, 3 * kWidth);
  linear(table, "projection 768 to 768", kTokens, kWidth, kWidth);
  linear(table, "up 768 to 3072", kTokens, kWidth, 4 * kWidth);
  linear(table, "down 3072 to 768", kTokens, 4 * kWidth, kWidth);
  linear(table, "head 768 to 50304, 4096 rows", kChunk, kWidth, kVocabulary);
}

// y = f(inputs) forward without recording, and the gradients of all inputs.
void both(Table& table, const std::string& name, const TensorList& inputs, double forward_bytes,
          double backward_bytes, const std::function<Tensor()>& f) {
  table.bytes(name + " forward", forward_bytes, [&] {
    NoGrad off;
    f();
  });
  const Tensor y = f();
  const Tensor g = y.rank() == 0 ? ones({}, {y.dtype(), kGpu}) : normal(y.shape(), y.dtype());
  table.bytes(name + " backward", backward_bytes,
              [&] { grad({y}, inputs, {g}, {.retain_graph = true}); });
}

void rows(Table& table) {
  const double one = 2.0 * kTokens * kWidth;  // bytes of the residual stream
  {
    const Tensor x = leaf({kTokens, 4 * kWidth});
    both(table, "gelu (32768, 3072)", {x}, 8 * one, 12 * one, [&] { return gelu(x); });
    both(table, "gelu_tanh (32768, 3072)", {x}, 8 * one, 12 * one, [&] { return gelu_tanh(x); });
    NoGrad off;
    table.bytes("column sum (32768, 3072)", 4 * one, [&] { sum(x, {0}); });
  }
  const Tensor x = leaf({kTokens, kWidth}), branch = leaf({kTokens, kWidth});
  const Tensor w = leaf({kWidth}), b = leaf({kWidth});
  {
    NoGrad off;
    table.bytes("add (32768, 768)", 3 * one, [&] { add(x, branch); });
    table.bytes("column sum (32768, 768)", one, [&] { sum(x, {0}); });
    table.bytes("sum of all (32768, 768)", one, [&] { sum(x); });
  }
  both(table, "layer_norm (32768, 768)", {x, w, b}, 2 * one, 3 * one,
       [&] { return layer_norm(x, w, b); });
  both(table, "rms_norm (32768, 768)", {x, w}, 2 * one, 3 * one, [&] { return rms_norm(x, w); });
  const AddNormResult fused = add_layer_norm(x, branch, w, b);
  const Tensor g = normal({kTokens, kWidth}), h = normal({kTokens, kWidth});
  table.bytes("add_layer_norm (32768, 768) forward", 4 * one, [&] {
    NoGrad off;
    add_layer_norm(x, branch, w, b);
  });
  table.bytes("add_layer_norm (32768, 768) backward", 4 * one, [&] {
    grad({fused.sum, fused.y}, {x, branch, w, b}, {h, g}, {.retain_graph = true});
  });
  const Tensor scores = leaf({kTokens, 1024});
  const double matrix = 2.0 * kTokens * 1024;
  both(table, "softmax (32768, 1024)", {scores}, 2 * matrix, 3 * matrix,
       [&] { return softmax(scores, -1); });
}

void loss(Table& table) {
  const double block = 2.0 * kChunk * kVocabulary;
  {
    const Tensor logits = leaf({kChunk, kVocabulary}), targets = ids({kChunk}, kVocabulary);
    both(table, "cross_entropy (4096, 50304)", {logits}, block, 2 * block,
         [&] { return cross_entropy(logits, targets); });
  }
  const Tensor hidden = leaf({kTokens, kWidth}), weight = leaf({kVocabulary, kWidth});
  const Tensor targets = ids({kTokens}, kVocabulary);
  table.flops("linear_cross_entropy (32768, 768, 50304)",
              6.0 * kTokens * static_cast<double>(kWidth * kVocabulary),
              [&] { linear_cross_entropy(hidden, weight, targets); });
  const double one = 2.0 * kTokens * kWidth, table_bytes = 2.0 * kVocabulary * kWidth;
  both(table, "embedding (50304, 768)", {weight}, 2 * one, one + table_bytes,
       [&] { return embedding(weight, targets); });
}

// An update of weights in bf16 with f32 masters: the gradient is read, master and both moments are
// read and written, the rounded weight is written.
void update(Table& table) {
  Parameter weights{.name = "weights", .value = leaf({162 * 1024, kWidth})};
  weights.master = kernels::cast(weights.value.detach(), DType::f32);
  weights.value.set_grad(normal(weights.value.shape()));
  const auto adamw = Choice<Optimizer>("adamw").build(std::vector<Parameter>{weights});
  table.bytes("adamw, 127 M weights in bf16", 28.0 * static_cast<double>(weights.value.numel()),
              [&] { adamw->step(1, 1); });
}

}  // namespace
}  // namespace tessera

int main(int argc, char** argv) {
  using namespace tessera;
  if (cuda_device_count() == 0) {
    fmt::print("no CUDA device here\n");
    return 1;
  }
  try {
    set_deterministic(false);  // products race
    Table table(argc > 1 ? argv[1] : "");
    ceilings(table);
    products(table);
    rows(table);
    loss(table);
    update(table);
  } catch (const Error& error) {
    fmt::print("{}\n", error.what());
    return 1;
  }
  return 0;
}
