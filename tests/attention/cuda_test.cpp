// The dense engine on a CUDA device: against the CPU in f64 over tile borders, head sizes, layouts,
// rules and scores, in values, logsumexp and gradients; the same bits in every run; linear memory.
#include "tessera/attention/engines/dense.h"
#include "tessera/attention/engines/scores.h"
#include "tessera/autograd/ops/comparison.h"
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

using Function = std::function<TensorFunction(Engine)>;

// A function of an engine on the device: against the CPU in f64, and twice for its bits.
void check_function(Failures& failures, const std::string& label, DType dtype,
                    const TensorList& inputs, const Function& function) {
  const std::string subject = fmt::format("{}", dtype);
  auto on_gpu = [&](Engine engine) {
    return evaluate(function(engine), inputs_for(inputs, dtype, dtype, kGpu, true), dtype);
  };
  Results want, got, again, composed;
  const bool ran = attempt_case(failures, subject, label, [&] {
    want =
        evaluate(function(dense_attention), inputs_for(inputs, dtype, DType::f64, {}, true), dtype);
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

void check_case(Failures& failures, const Case& c, DType dtype) {
  check_function(failures, label_of(c), dtype, inputs_of(c),
                 [&](Engine engine) { return function_of(c, engine); });
}

struct Sizes {
  int64_t batch, heads, key_heads, queries, keys, width;
};

// Setting made from inputs after query, key and value.
struct Setting {
  const char* name;
  TensorList extra;
  std::function<AttentionOptions(const TensorList& extra)> make;
};

Tensor integers(const Shape& shape, int64_t low, int64_t high, uint64_t salt) {
  return samples::integers(shape, low, high, salt).to(DType::i32);
}

std::vector<Setting> rules_for(const Sizes& s) {
  using List = const TensorList&;
  const int64_t n = s.queries, m = s.keys, b = s.batch, h = s.heads;
  return {
      {"window", {}, [](List) { return AttentionOptions{.left = 5, .right = 40}; }},
      {"causal window", {}, [](List) { return AttentionOptions{.causal = true, .left = 70}; }},
      {"lengths",
       {integers({b}, 0, m + 1, 1)},
       [](List x) { return AttentionOptions{.causal = true, .key_lengths = x[0]}; }},
      {"segments",
       {integers({b, 1, n}, 0, 3, 2), integers({b, 1, m}, 0, 3, 3)},
       [](List x) { return AttentionOptions{.query_segments = x[0], .key_segments = x[1]}; }},
      {"positions",
       {integers({1, h, n}, 0, m, 4), integers({b, 1, m}, 0, m, 5)},
       [](List x) {
         return AttentionOptions{
             .causal = true, .left = 50, .query_positions = x[0], .key_positions = x[1]};
       }},
      {"query positions",
       {integers({b, 1, n}, 0, m, 4)},
       [](List x) { return AttentionOptions{.causal = true, .query_positions = x[0]}; }},
      {"key ranges",
       {integers({b, h, n}, 0, m, 6), integers({1, 1, n}, 0, m + 1, 7)},
       [](List x) { return AttentionOptions{.key_begin = x[0], .key_end = x[1]}; }},
  };
}

std::vector<Setting> scores_for(const Sizes& s) {
  using List = const TensorList&;
  const int64_t n = s.queries, m = s.keys, b = s.batch, h = s.heads;
  auto adds = [](List x) { return AttentionOptions{.causal = true, .score = bias(x[0])}; };
  return {
      {"self score",
       {},
       [](List) { return AttentionOptions{.causal = true, .score = self_score(-3)}; }},
      {"softcap", {}, [](List) { return AttentionOptions{.causal = true, .score = softcap(0.7)}; }},
      {"relu squared", {}, [](List) { return AttentionOptions{.score = relu_squared()}; }},
      {"alibi",
       {samples::positive({h})},
       [](List x) { return AttentionOptions{.causal = true, .score = alibi(x[0])}; }},
      {"offset bias",
       {normal({h, 91}, 11)},
       [](List x) { return AttentionOptions{.score = offset_bias(x[0], 60)}; }},
      {"offset bias for all heads",
       {normal({1, 91}, 11)},
       [](List x) { return AttentionOptions{.score = offset_bias(x[0], 60)}; }},
      {"distance bias",
       {normal({h, 9}, 12)},
       [](List x) { return AttentionOptions{.score = distance_bias(x[0])}; }},
      {"distance bias at positions",
       {normal({1, 30}, 12), integers({b, 1, n}, 0, m, 4), integers({b, 1, m}, 0, m, 5)},
       [](List x) {
         return AttentionOptions{
             .query_positions = x[1], .key_positions = x[2], .score = distance_bias(x[0])};
       }},
      {"bucket bias",
       {normal({32, h}, 13)},
       [](List x) { return AttentionOptions{.score = bucket_bias(x[0], 128, true)}; }},
      {"bias", {normal({b, h, n, m}, 14)}, adds},
      {"bias for all batches", {normal({1, h, n, m}, 14)}, adds},
      {"bias for all heads", {normal({1, 1, n, m}, 14)}, adds},
      {"bias of keys", {normal({b, 1, 1, m}, 14)}, adds},
      {"bias of queries", {normal({1, h, n, 1}, 14)}, adds},
  };
}

void check_options(Failures& failures, const Sizes& s, const Setting& o, DType dtype) {
  TensorList inputs{normal({s.batch, s.heads, s.queries, s.width}, 1),
                    normal({s.batch, s.key_heads, s.keys, s.width}, 2),
                    normal({s.batch, s.key_heads, s.keys, s.width}, 3)};
  inputs.insert(inputs.end(), o.extra.begin(), o.extra.end());
  const std::string label = fmt::format("{}: B {} H {}/{} N {}/{} D {}", o.name, s.batch, s.heads,
                                        s.key_heads, s.queries, s.keys, s.width);
  check_function(failures, label, dtype, inputs, [&](Engine engine) {
    return [&, engine](const TensorList& in) {
      const AttentionResult r = engine(in[0], in[1], in[2], o.make({in.begin() + 3, in.end()}));
      return TensorList{r.output, masked_fill(r.logsumexp, eq(r.logsumexp, -INFINITY), 0)};
    };
  });
}

constexpr Sizes kOddSizes[] = {{2, 2, 1, 1, 3, 8},
                               {1, 4, 2, 63, 63, 40},
                               {2, 2, 2, 65, 130, 256},
                               {2, 6, 3, 200, 200, 64},
                               {1, 2, 2, 150, 70, 5}};

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

  TEST_CASE("dense attention on CUDA gives it with sums in any order, too") {
    if (!has_gpu()) return;
    const AnyOrder any;
    for (DType dtype : {DType::bf16, DType::f16}) {
      Failures failures(fmt::format("dense attention in {}, in any order", dtype));
      for (const Case& c : cases()) {
        if (std::max(c.width, c.value_width) <= 64) check_case(failures, c, dtype);
      }
      failures.report();
    }
  }

  TEST_CASE("every rule on CUDA gives what it gives on the CPU in f64") {
    if (!has_gpu()) return;
    for (DType dtype : kFloating) {
      Failures failures(fmt::format("rules in {}", dtype));
      for (const Sizes& s : kOddSizes) {
        for (const Setting& o : rules_for(s)) check_options(failures, s, o, dtype);
      }
      failures.report();
    }
  }

  TEST_CASE("every score on CUDA gives what it gives on the CPU in f64, tables included") {
    if (!has_gpu()) return;
    for (DType dtype : kFloating) {
      Failures failures(fmt::format("scores in {}", dtype));
      for (const Sizes& s : kOddSizes) {
        for (const Setting& o : scores_for(s)) check_options(failures, s, o, dtype);
      }
      failures.report();
    }
  }

  TEST_CASE("score entries are counted on CUDA, by kernels and by formula") {
    if (!has_gpu()) return;
    for (DType dtype : {DType::f32, DType::bf16}) {
      for (const auto& [queries, keys, left, want] : {std::array<int64_t, 4>{10, 10, -1, 55},
                                                      {70, 100, -1, 70 * 31 + 69 * 70 / 2},
                                                      {100, 70, -1, 70 * 71 / 2},
                                                      {130, 130, 0, 130}}) {
        auto random = [&](int64_t n, uint64_t salt) {
          return kernels::to_device(kernels::cast(normal({2, 3, n, 16}, salt), dtype), kGpu);
        };
        const int64_t before = score_entries();
        dense_attention(random(queries, 1), random(keys, 2), random(keys, 3),
                        {.causal = true, .left = left});
        CHECK(score_entries() - before == 2 * 3 * want);
      }
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
