// The dense engine on a CUDA device: against the CPU in f64 over tile borders, head sizes and
// layouts, in values, logsumexp and gradients; the same bits in every run; linear memory.
#include "tessera/attention/engines/dense.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/core/allocator.h"
#include "tessera/core/view.h"
#include "tessera/tests/support.h"

using namespace tessera;
using namespace tessera::test;

namespace {

struct Case {
  int64_t batch, heads, key_heads, queries, keys, width, value_width;
  bool causal;
  bool packed = false;  // q, k, v are views of one (B, N, 3, H, D) tensor
  double scale = 0;
};

std::string label_of(const Case& c) {
  return fmt::format("B {} H {}/{} N {}/{} D {}/{}{}{}", c.batch, c.heads, c.key_heads, c.queries,
                     c.keys, c.width, c.value_width, c.causal ? " causal" : "",
                     c.packed ? " packed" : "");
}

Case square(int64_t heads, int64_t n, int64_t width, bool causal, bool packed = false) {
  return {1, heads, heads, n, n, width, width, causal, packed};
}

std::vector<Case> cases() {
  std::vector<Case> list;
  for (int64_t n : {1, 7, 64, 65, 200}) {
    for (int64_t width : {16, 24, 32, 64, 80, 128, 256}) {
      for (bool causal : {false, true}) list.push_back(square(2, n, width, causal));
    }
  }
  for (int64_t width : {64, 128, 256}) {
    list.push_back(square(2, 1024, width, true));
    list.push_back(square(1, 1024, width, false));
    list.push_back(square(3, 333, width, true, true));
  }
  for (int64_t n : {63, 127, 128, 129, 191, 193, 385}) {  // tiles of 64, 128 and 192
    for (int64_t width : {56, 64, 96, 128}) {
      for (bool causal : {false, true}) list.push_back(square(1, n, width, causal));
    }
  }
  for (int64_t width : {64, 128}) {
    for (bool causal : {false, true}) {
      list.push_back({1, 4, 2, 129, 300, width, width, causal});
      list.push_back({2, 3, 1, 300, 129, width, width, causal});  // the first see nothing
      list.push_back({1, 2, 2, 385, 1, width, width, causal});
      list.push_back({1, 2, 2, 1, 1000, width, width, causal});
    }
  }
  list.push_back({2, 8, 2, 200, 200, 128, 64, true});
  list.push_back({2, 8, 1, 200, 260, 64, 128, true});
  list.push_back({2, 4, 4, 129, 129, 32, 32, true, true});
  list.push_back({2, 6, 2, 150, 150, 64, 64, true});   // grouped heads
  list.push_back({1, 8, 1, 70, 200, 128, 128, true});  // after a cache
  list.push_back({1, 4, 2, 100, 300, 256, 256, false});
  list.push_back({1, 2, 2, 1, 500, 64, 64, true});    // one new token
  list.push_back({1, 2, 2, 200, 90, 64, 64, false});  // more queries than keys
  list.push_back({1, 2, 1, 130, 130, 40, 96, true});  // values wider than keys
  list.push_back({1, 2, 2, 65, 66, 5, 3, false});     // rows not in 16-byte pieces
  list.push_back({1, 1, 1, 40, 40, 300, 20, true});   // wider than the tensor-core kernels
  list.push_back({1, 1, 1, 40, 40, 16, 16, false, false, -0.3});
  list.push_back({1, 2, 2, 0, 5, 8, 8, false});
  list.push_back({0, 2, 2, 3, 5, 8, 8, true});
  return list;
}

Tensor normal(const Shape& shape, uint64_t salt) {
  const Tensor x = empty(shape, {DType::f64, {}});
  kernels::normal(x, 0, 1, {0xa77e, salt});
  return x;
}

// q, k, v, or the tensor that holds them packed.
TensorList inputs_of(const Case& c) {
  if (c.packed) return {normal({c.batch, c.queries, 3, c.heads, c.width}, 0)};
  return {normal({c.batch, c.heads, c.queries, c.width}, 1),
          normal({c.batch, c.key_heads, c.keys, c.width}, 2),
          normal({c.batch, c.key_heads, c.keys, c.value_width}, 3)};
}

using Engine = AttentionResult (*)(const Tensor&, const Tensor&, const Tensor&,
                                   const AttentionOptions&);

TensorFunction function_of(const Case& c, Engine engine) {
  return [c, engine](const TensorList& in) {
    const AttentionOptions options{.causal = c.causal, .scale = c.scale};
    auto part = [&](int64_t i) { return transpose(select(in[0], 2, i), 1, 2); };
    const AttentionResult r = c.packed ? engine(part(0), part(1), part(2), options)
                                       : engine(in[0], in[1], in[2], options);
    return TensorList{r.output, r.logsumexp};
  };
}

AttentionResult plain(const Tensor& q, const Tensor& k, const Tensor& v,
                      const AttentionOptions& options) {
  return dense_attention_reference(q, k, v, options);
}

void check_case(Failures& failures, const Case& c, DType dtype) {
  const std::string subject = fmt::format("{}", dtype), label = label_of(c);
  const TensorList inputs = inputs_of(c);
  auto on_gpu = [&](Engine engine) {
    return evaluate(function_of(c, engine), inputs_for(inputs, dtype, dtype, kGpu, true), dtype);
  };
  Results want, got, again, composed;
  const bool ran = attempt(failures, subject, label, [&] {
    want = evaluate(function_of(c, dense_attention),
                    inputs_for(inputs, dtype, DType::f64, {}, true), dtype);
    got = on_gpu(dense_attention);
    again = on_gpu(dense_attention);
  });
  if (!ran) return;
  if (is_half(dtype)) {
    attempt(failures, subject, label + ", composed", [&] { composed = on_gpu(plain); });
  }
  compare(failures, subject, label, dtype, got, want, composed);
  compare_bits(failures, subject, label, got, again);
}

}  // namespace

TEST_SUITE("cuda") {
  TEST_CASE("dense attention on CUDA gives what it gives on the CPU in f64") {
    if (!has_gpu()) return;
    for (DType dtype : kFloating) {
      Failures failures(fmt::format("dense attention in {}", dtype));
      for (const Case& c : cases()) check_case(failures, c, dtype);
      failures.report();
    }
  }

  TEST_CASE("a query that sees no key gives 0 and minus infinity on CUDA, and gradients 0") {
    if (!has_gpu()) return;
    for (DType dtype : kFloating) {
      for (int64_t keys : {0, 2, 70}) {
        auto leaf = [&](int64_t n, uint64_t salt) {
          Tensor x = kernels::to_device(kernels::cast(normal({1, 2, n, 64}, salt), dtype), kGpu);
          return x.set_requires_grad();
        };
        const Tensor q = leaf(200, 1), k = leaf(keys, 2), v = leaf(keys, 3);
        const AttentionResult r = dense_attention(q, k, v, {.causal = true});
        const TensorList g = grad({r.output, r.logsumexp}, {q, k, v},
                                  {full(r.output.shape(), 1, {dtype, kGpu}),
                                   full(r.logsumexp.shape(), 1, {r.logsumexp.dtype(), kGpu})});
        const int64_t blind = 200 - keys;  // of each head
        const auto lse = views::slice(r.logsumexp.detach(), 2, 0, blind).to_vector<double>();
        CHECK(std::all_of(lse.begin(), lse.end(), [](double x) { return x == -INFINITY; }));
        for (const Tensor& x : {r.output.detach(), g[0]}) {
          const auto rows = views::slice(x, 2, 0, blind).to_vector<double>();
          CHECK(std::all_of(rows.begin(), rows.end(), [](double e) { return e == 0; }));
        }
        for (const Tensor& x : g) {
          const auto all = x.to_vector<double>();
          CHECK(std::all_of(all.begin(), all.end(), [](double e) { return std::isfinite(e); }));
        }
      }
    }
  }

  TEST_CASE("dense attention on CUDA gives the same bits a hundred times on a full device") {
    if (!has_gpu()) return;
    for (int64_t width : {64, 128}) {
      const Case c{4, 16, 16, 1000, 1000, width, width, true, true};
      const TensorList inputs = inputs_for(inputs_of(c), DType::bf16, DType::bf16, kGpu, true);
      const TensorFunction run = function_of(c, dense_attention);
      auto results = [&] {
        const TensorList out = run(inputs);
        const TensorList g = grad({out[0]}, inputs, {cotangent(out[0], 0, DType::bf16)});
        return Results{{"output", kernels::to_device(out[0].detach(), {})},
                       {"logsumexp", kernels::to_device(out[1].detach(), {})},
                       {"gradient", kernels::to_device(g[0], {})}};
      };
      Failures failures(fmt::format("runs at D {}", width));
      const Results first = results();
      for (int i = 0; i < 100; ++i) compare_bits(failures, "bf16", label_of(c), first, results());
      failures.report();
    }
  }

  TEST_CASE("dense attention on CUDA needs memory linear in the length") {
    if (!has_gpu()) return;
    for (DType dtype : {DType::bf16, DType::f32}) {
      auto peak = [&](int64_t n) {
        Tensor x = kernels::to_device(kernels::cast(normal({1, 1, n, 64}, 1), dtype), kGpu);
        x.set_requires_grad();
        const Tensor weights = full(x.shape(), 1, {dtype, kGpu});
        Allocator& memory = allocator(kGpu);
        memory.reset_peak();
        const int64_t before = memory.stats().live;
        grad({dense_attention(x, x, x, {.causal = true}).output}, {x}, {weights});
        return memory.stats().peak - before;
      };
      const int64_t n = 16384;
      CHECK(peak(n) < n * 64 * size_of(dtype) * 12);
      CHECK(peak(n) < 5 * peak(n / 4));
    }
  }
}
