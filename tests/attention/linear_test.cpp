// The linear engine: against its quadratic reference and against what its formula says, for every
// kind of decay, over chunk and segment borders.
#include "tessera/attention/engines/linear.h"

#include <cmath>

#include "tessera/attention/engines/engine.h"
#include "tessera/autograd/gradcheck.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/elementwise.h"
#include "tessera/autograd/ops/matmul.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/triangle.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/core/parallel.h"
#include "tessera/core/view.h"
#include "tessera/tests/support.h"

using namespace tessera;
using namespace tessera::test;

namespace {

enum class Decay { none, fixed, per_token };

struct Case {
  int64_t batch, heads, key_heads, length, width, value_width;
  Decay decay = Decay::fixed;
  bool state = false;
  LinearOptions options = {};
  double strongest = -0.3;  // of the log-decays
  bool packed = false;      // q, k, v are views of one (B, N, 3, H, D) tensor
};

std::string label_of(const Case& c) {
  const char* decays[] = {"no decay", "decay per head", "decay per token"};
  return fmt::format("B {} H {}/{} N {} D {}/{} {}{}{} chunk {}{}", c.batch, c.heads, c.key_heads,
                     c.length, c.width, c.value_width, decays[static_cast<int>(c.decay)],
                     c.state ? " state" : "", c.options.normalise ? " normalised" : "",
                     c.options.chunk, c.packed ? " packed" : "");
}

Tensor random(const Shape& shape, uint64_t salt, double low, double high) {
  const Tensor x = empty(shape, {DType::f64, {}});
  kernels::uniform(x, low, high, {0x11ea5, salt});
  return x;
}

// q, k, v, log-decays, state; undefined where there are none.
TensorList inputs_of(const Case& c) {
  const double low = c.options.normalise ? 0.1 : -1;
  auto heads = [&](int64_t count, int64_t width, uint64_t salt) {
    return random({c.batch, count, c.length, width}, salt, low, 1);
  };
  TensorList in{heads(c.heads, c.width, 1), heads(c.key_heads, c.width, 2),
                heads(c.key_heads, c.value_width, 3)};
  if (c.packed) {
    const Tensor all = random({c.batch, c.length, 3, c.heads, c.width}, 1, low, 1);
    for (int64_t i = 0; i < 3; ++i) {
      in[static_cast<size_t>(i)] = views::transpose(views::select(all, 2, i), 1, 2);
    }
  }
  // Decays per head are of one order, so that no head's gradient, and its error, outweighs the
  // others.
  if (c.decay == Decay::none) {
    in.push_back({});
  } else if (c.decay == Decay::fixed) {
    in.push_back(random({c.heads}, 4, c.strongest, c.strongest / 3));
  } else {
    in.push_back(random({c.batch, c.heads, c.length}, 4, c.strongest, 0));
  }
  const int64_t columns = c.value_width + (c.options.normalise ? 1 : 0);
  in.push_back(c.state ? random({c.batch, c.heads, c.width, columns}, 5, low, 1) : Tensor());
  return in;
}

using Engine = LinearResult (*)(const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                const Tensor&, const LinearOptions&);

TensorFunction function_of(const LinearOptions& options, Engine engine) {
  return [options, engine](const TensorList& in) {
    const LinearResult r = engine(in[0], in[1], in[2], in[3], in[4], options);
    return TensorList{r.output, r.state};
  };
}

Results run(const Case& c, Engine engine, DType dtype = DType::f64, Device device = {}) {
  return evaluate(function_of(c.options, engine),
                  inputs_for(inputs_of(c), dtype, dtype, device, true), dtype);
}

double worst(const Results& a, const Results& b) {
  double w = a.size() == b.size() ? 0 : INFINITY;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    const Distance d = distance(a[i].second, b[i].second);
    w = std::max(w, d.worst / std::max(1.0, d.scale));
  }
  return w;
}

std::vector<Case> cases() {
  std::vector<Case> list;
  for (Decay decay : {Decay::none, Decay::fixed, Decay::per_token}) {
    for (int64_t n : {1, 63, 64, 65, 200}) list.push_back({1, 2, 2, n, 16, 24, decay, n % 2 == 1});
    list.push_back({2, 4, 2, 130, 8, 8, decay, true});   // grouped heads
    list.push_back({1, 6, 2, 70, 5, 3, decay, true});    // odd widths
    list.push_back({1, 1, 1, 1300, 8, 4, decay, true});  // several segments
    list.push_back({1, 2, 1, 1153, 4, 4, decay, false});
    list.push_back({1, 2, 2, 90, 8, 8, decay, true, {.scale = -0.4, .chunk = 7}});
    list.push_back({1, 2, 2, 75, 4, 6, decay, true, {.normalise = true}});
    list.push_back({2, 3, 3, 100, 8, 8, decay, false, {}, -0.3, true});
    list.push_back({1, 2, 2, 150, 8, 8, decay, true, {}, -30});  // all but forgetful
  }
  list.push_back({1, 2, 2, 0, 4, 3, Decay::fixed, true});
  list.push_back({0, 2, 2, 5, 4, 3, Decay::per_token, true});
  return list;
}

Tensor rows(const Tensor& x, int64_t begin, int64_t end) {
  return slice(x, 2, begin, end);
}

}  // namespace

TEST_CASE("the linear engine equals its reference in values and gradients, for every decay") {
  for (const Case& c : cases()) {
    CAPTURE(label_of(c));
    CHECK(worst(run(c, linear_attention), run(c, linear_attention_reference)) < 1e-10);
    const Results exact = run(c, linear_attention_reference);
    CHECK(worst(run(c, linear_attention, DType::f32), exact) < 1e-4);
  }
}

TEST_CASE("the chunk of the linear engine changes nothing") {
  for (Decay decay : {Decay::none, Decay::fixed, Decay::per_token}) {
    Case c{1, 2, 1, 150, 6, 5, decay, true};
    const Results whole = run(c, linear_attention);
    for (int64_t chunk : {1, 7, 16, 64, 150, 1000}) {
      CAPTURE(chunk);
      c.options.chunk = chunk;
      CHECK(worst(run(c, linear_attention), whole) < 1e-11);
    }
  }
}

TEST_CASE("two halves of a sequence with the state handed over equal the whole") {
  for (Decay decay : {Decay::none, Decay::fixed, Decay::per_token}) {
    const Case c{1, 4, 2, 130, 6, 5, decay, true};
    auto halves = [&](const TensorList& in) {
      const int64_t middle = 77;
      auto decay_of = [&](int64_t begin, int64_t end) {
        return decay == Decay::per_token ? rows(in[3], begin, end) : in[3];
      };
      auto part = [&](int64_t begin, int64_t end, const Tensor& state) {
        return linear_attention(rows(in[0], begin, end), rows(in[1], begin, end),
                                rows(in[2], begin, end), decay_of(begin, end), state);
      };
      const LinearResult first = part(0, middle, in[4]);
      const LinearResult second = part(middle, c.length, first.state);
      return TensorList{concat({first.output, second.output}, 2), second.state};
    };
    const TensorList inputs = inputs_for(inputs_of(c), DType::f64, DType::f64, {}, true);
    CHECK(worst(evaluate(halves, inputs, DType::f64), run(c, linear_attention)) < 1e-11);
  }
}

TEST_CASE("token by token the linear engine gives what it gives in chunks") {
  for (bool normalise : {false, true}) {
    const Case c{2, 4, 2, 70, 6, 5, Decay::per_token, false, {.normalise = normalise}};
    const TensorList in = inputs_of(c);
    const LinearResult all = linear_attention(in[0], in[1], in[2], in[3], {}, c.options);
    Tensor state = zeros(all.state.shape(), {DType::f64, {}});
    TensorList tokens;
    for (int64_t i = 0; i < c.length; ++i) {
      const LinearResult r =
          linear_attention_step(rows(in[0], i, i + 1), rows(in[1], i, i + 1), rows(in[2], i, i + 1),
                                rows(in[3], i, i + 1), state, c.options);
      tokens.push_back(r.output);
      state = r.state;
    }
    CHECK(distance(concat(tokens, 2), all.output).worst < 1e-12);
    CHECK(distance(state, all.state).worst < 1e-12);
  }
}

TEST_CASE("without decay the linear engine is masked attention without a softmax") {
  const Case c{2, 2, 2, 100, 8, 6, Decay::none};
  const TensorList in = inputs_of(c);
  const Tensor scores = tril(matmul(in[0], transpose(in[1], -1, -2)));
  CHECK(distance(linear_attention(in[0], in[1], in[2]).output, matmul(scores, in[2])).worst <
        1e-12);
}

TEST_CASE("normalised weights of the linear engine sum to one") {
  Case c{1, 2, 2, 90, 6, 3, Decay::fixed, false, {.normalise = true, .epsilon = 0}};
  TensorList in = inputs_of(c);
  in[2] = full(in[2].shape(), 1, {DType::f64, {}});
  const Tensor y = linear_attention(in[0], in[1], in[2], in[3], {}, c.options).output;
  CHECK(distance(y, ones_like(y)).worst < 1e-12);
}

TEST_CASE("the full linear engine is the product of three matrices") {
  for (bool normalise : {false, true}) {
    const Case c{2, 4, 2, 50, 6, 5, Decay::none, false, {.scale = 0.7, .normalise = normalise}};
    const TensorList in = inputs_of(c);
    auto repeated = [](const Tensor& x) {
      return reshape(stack({x, x}, 2), {2, 4, x.size(2), x.size(3)});
    };
    Tensor weights = matmul(in[0], transpose(repeated(in[1]), -1, -2)) * 0.7;
    if (normalise) weights = weights / (sum(weights, {-1}, true) + c.options.epsilon);
    const LinearResult r = linear_attention_full(in[0], in[1], in[2], c.options);
    CHECK(distance(r.output, matmul(weights, repeated(in[2]))).worst < 1e-11);
  }
}

TEST_CASE("the linear engine does not see the future") {
  const Case c{1, 2, 2, 200, 6, 5, Decay::per_token};
  const TensorList in = inputs_of(c);
  const Tensor before = linear_attention(in[0], in[1], in[2], in[3]).output;
  for (int64_t t : {0, 63, 64, 150}) {
    TensorList changed = in;
    for (size_t i = 0; i < 4; ++i) {
      changed[i] = kernels::clone(in[i]);
      kernels::copy(views::slice(changed[i], 2, t, 200),
                    full(views::slice(changed[i], 2, t, 200).shape(), -3, {DType::f64, {}}));
    }
    const Tensor after = linear_attention(changed[0], changed[1], changed[2], changed[3]).output;
    CHECK(same_bits(views::slice(before, 2, 0, t), views::slice(after, 2, 0, t)));
    CHECK_FALSE(same_bits(before, after));
  }
}

TEST_CASE("a decay that forgets everything leaves each token its own") {
  const Case c{1, 2, 2, 130, 4, 4, Decay::per_token, true};
  for (DType dtype : {DType::f64, DType::f32}) {
    TensorList in = inputs_for(inputs_of(c), dtype, dtype, {});
    in[3] = full(in[3].shape(), -2000, {dtype, {}});
    for (const Tensor& x : in) Tensor(x).set_requires_grad();
    const LinearResult r = linear_attention(in[0], in[1], in[2], in[3], in[4]);
    const Tensor own = sum(in[0] * in[1], {-1}, true) * in[2];
    CHECK(distance(r.output, own).worst < 1e-5);
    for (const Tensor& g : grad({sum(r.output), sum(r.state)}, in)) {
      for (double x : g.to_vector<double>()) CHECK(std::isfinite(x));
    }
  }
}

TEST_CASE("a key head of the linear engine serves its group of query heads") {
  const Case c{2, 6, 2, 70, 4, 3, Decay::fixed, true};
  const TensorList in = inputs_of(c);
  auto repeated = [](const Tensor& x) {
    return reshape(stack({x, x, x}, 2), {2, 6, x.size(2), x.size(3)});
  };
  CHECK(distance(linear_attention(in[0], in[1], in[2], in[3], in[4]).output,
                 linear_attention(in[0], repeated(in[1]), repeated(in[2]), in[3], in[4]).output)
            .worst < 1e-13);
}

TEST_CASE("the linear engine gives the same bits for any number of threads") {
  const int threads = num_threads();
  for (Decay decay : {Decay::fixed, Decay::per_token}) {
    for (int64_t n : {130, 2000}) {
      const Case c{1, 3, 3, n, 16, 16, decay, true};
      set_num_threads(1);
      const Results one = run(c, linear_attention, DType::f32);
      set_num_threads(2);
      const Results two = run(c, linear_attention, DType::f32);
      set_num_threads(threads);
      for (size_t i = 0; i < one.size(); ++i) CHECK(same_bits(one[i].second, two[i].second));
    }
  }
}

TEST_CASE("score entries of the linear engine grow with the length, not with its square") {
  auto entries = [](int64_t n, int64_t chunk) {
    const Case c{2, 3, 3, n, 4, 4, Decay::none, false, {.chunk = chunk}};
    const TensorList in = inputs_of(c);
    const int64_t before = score_entries();
    linear_attention(in[0], in[1], in[2], {}, {}, c.options);
    return score_entries() - before;
  };
  CHECK(entries(32, 32) == 2 * 3 * 32 * 33 / 2);
  CHECK(entries(40, 32) == 2 * 3 * (32 * 33 / 2 + 8 * 9 / 2));
  CHECK(entries(4096, 64) == 16 * entries(256, 64));
}

TEST_CASE("memory of the linear engine grows linearly with the length") {
  auto peak = [](int64_t n) {
    const Case c{1, 1, 1, n, 16, 16, Decay::per_token};
    const TensorList in = inputs_for(inputs_of(c), DType::f32, DType::f32, {}, true);
    Allocator& memory = allocator({});
    memory.reset_peak();
    const int64_t before = memory.stats().live;
    const Tensor y = linear_attention(in[0], in[1], in[2], in[3]).output;
    grad({y}, {in[0], in[1], in[2], in[3]}, {y.detach()});
    return memory.stats().peak - before;
  };
  const int64_t n = 65536;
  CHECK(peak(n) < n * 16 * 4 * 10);
  CHECK(peak(n) < 5 * peak(n / 4));
}

namespace {

// Decays per head have many heads: the rule for halves compares the largest errors of tensors,
// which says nothing about tensors of two numbers.
std::vector<Case> cuda_cases() {
  std::vector<Case> list;
  for (Decay decay : {Decay::none, Decay::fixed, Decay::per_token}) {
    const int64_t heads = decay == Decay::fixed ? 12 : 2;
    for (int64_t n : {1, 2, 63, 64, 65, 200}) {
      for (int64_t width : {8, 16, 64, 80, 128}) {
        list.push_back({1, heads, heads, n, width, width, decay, n % 2 == 1});
      }
    }
    for (int64_t width : {64, 128}) {
      list.push_back({1, heads, heads, 1300, width, width, decay, true});  // several segments
      list.push_back({2, heads, heads, 1024, width, width, decay, false, {}, -0.3, true});
      list.push_back({1, 2 * heads, heads, 333, width, width, decay, true, {}, -0.02});
    }
    list.push_back({2, 12, 4, 150, 64, 128, decay, true});  // grouped heads
    list.push_back({1, 12, 1, 700, 128, 64, decay, false});
    list.push_back({1, heads, heads, 270, 5, 3, decay, true});  // rows not in 16-byte pieces
    list.push_back({1, heads, heads / 2, 90, 73, 100, decay, true});
    list.push_back({1, heads, heads, 80, 200, 24, decay, true});  // wider than tensor cores take
    list.push_back({1, heads, heads, 90, 16, 32, decay, true, {.scale = -0.4}});
    list.push_back({1, heads, heads, 140, 32, 32, decay, true, {.normalise = true}});
    list.push_back({1, heads, heads, 600, 64, 64, decay, true, {}, -30});
  }
  list.push_back({1, 2, 2, 0, 8, 8, Decay::fixed, true});
  list.push_back({0, 2, 2, 5, 8, 8, Decay::per_token, true});
  return list;
}

void check_case(Failures& failures, const Case& c, DType dtype) {
  const std::string subject = fmt::format("{}", dtype), label = label_of(c);
  auto on_gpu = [&](Engine engine) { return run(c, engine, dtype, kGpu); };
  Results want, got, again, composed;
  const bool ran = attempt_case(failures, subject, label, [&] {
    want = evaluate(function_of(c.options, linear_attention),
                    inputs_for(inputs_of(c), dtype, DType::f64, {}, true), dtype);
    got = on_gpu(linear_attention);
    again = on_gpu(linear_attention);
  });
  if (!ran) return;
  if (is_half(dtype)) {
    attempt(failures, subject, label + ", composed",
            [&] { composed = on_gpu(linear_attention_reference); });
  }
  compare(failures, subject, label, dtype, got, want, composed);
  compare_bits(failures, subject, label, got, again);
}

}  // namespace

TEST_SUITE("cuda") {
  TEST_CASE("linear attention on CUDA gives what it gives on the CPU in f64") {
    if (!has_gpu()) return;
    for (DType dtype : kFloating) {
      Failures failures(fmt::format("linear attention in {}", dtype));
      for (const Case& c : cuda_cases()) check_case(failures, c, dtype);
      failures.report();
    }
  }

  TEST_CASE("linear attention on CUDA gives the same bits a hundred times on a full device") {
    if (!has_gpu()) return;
    for (int64_t width : {64, 128}) {
      const Case c{2, 16, 16, 3000, width, width, Decay::per_token, true, {}, -0.1, true};
      const TensorList inputs = inputs_for(inputs_of(c), DType::bf16, DType::bf16, kGpu, true);
      const TensorFunction function = function_of(c.options, linear_attention);
      Failures failures(fmt::format("runs at D {}", width));
      const Results first = evaluate(function, inputs, DType::bf16);
      for (int i = 0; i < 100; ++i) {
        compare_bits(failures, "bf16", label_of(c), first, evaluate(function, inputs, DType::bf16));
      }
      failures.report();
    }
  }

  TEST_CASE("a decay that forgets everything gives no NaN on CUDA") {
    if (!has_gpu()) return;
    const Case c{1, 2, 2, 700, 64, 64, Decay::per_token, true};
    for (DType dtype : kFloating) {
      TensorList in = inputs_for(inputs_of(c), dtype, dtype, kGpu);
      in[3] = full(in[3].shape(), -2000, {dtype, kGpu});
      for (const Tensor& x : in) Tensor(x).set_requires_grad();
      const LinearResult r = linear_attention(in[0], in[1], in[2], in[3], in[4]);
      const TensorList g = grad({r.output, r.state}, in,
                                {ones_like(r.output.detach()), ones_like(r.state.detach())});
      for (const TensorList& list : {TensorList{r.output, r.state}, g}) {
        for (const Tensor& x : list) {
          const auto all = x.to_vector<double>();
          CHECK(std::all_of(all.begin(), all.end(), [](double e) { return std::isfinite(e); }));
        }
      }
    }
  }

  TEST_CASE("linear attention on CUDA needs memory linear in the length") {
    if (!has_gpu()) return;
    for (DType dtype : {DType::bf16, DType::f32}) {
      auto peak = [&](int64_t n) {
        const Case c{1, 2, 2, n, 64, 64, Decay::per_token};
        const TensorList in = inputs_for(inputs_of(c), dtype, dtype, kGpu, true);
        Allocator& memory = allocator(kGpu);
        memory.reset_peak();
        const int64_t before = memory.stats().live;
        const Tensor y = linear_attention(in[0], in[1], in[2], in[3]).output;
        grad({y}, {in[0], in[1], in[2], in[3]}, {y.detach()});
        return memory.stats().peak - before;
      };
      const int64_t n = 131072;
      MESSAGE("peak at N " << n << " H 2 D 64: " << peak(n) << " bytes");
      CHECK(peak(n) < n * 2 * 64 * size_of(dtype) * 10);
      CHECK(peak(n) < 5 * peak(n / 4));
    }
  }
}
