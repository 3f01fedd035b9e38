// The gather engine on a CUDA device: against the CPU in f64 over widths, lists and rules, the same
// bits in every run.
#include "tessera/attention/engines/gather_attention.h"
#include "tessera/attention/engines/scores.h"
#include "tessera/tests/support.h"

using namespace tessera;
using namespace tessera::test;

namespace {

struct Case {
  int64_t batch, heads, key_heads, queries, keys, width, value_width;
  int64_t groups = 0, group_queries = 1;  // no groups: a list per query
  int64_t listed = 8;                     // keys in a list
  bool causal = false, shared = false;    // shared: by batch and heads
  bool ruled = false;                     // lengths, positions and a window
  bool scored = false;                    // with a table of offsets
  Combine how = Combine::sum;
};

std::string label_of(const Case& c) {
  return fmt::format("B {} H {}/{} N {}/{} D {}/{} groups {} x {} x {}{}{}{}{} {}", c.batch,
                     c.heads, c.key_heads, c.queries, c.keys, c.width, c.value_width, c.groups,
                     c.group_queries, c.listed, c.causal ? " causal" : "",
                     c.shared ? " shared" : "", c.ruled ? " ruled" : "", c.scored ? " scored" : "",
                     static_cast<int>(c.how));
}

std::vector<Case> cases() {
  std::vector<Case> list;
  for (int64_t width : {1, 8, 20, 64, 72, 128, 200, 256}) {
    list.push_back({2, 2, 2, 37, 41, width, width, 0, 1, 45, width % 16 == 0});
    list.push_back({1, 2, 1, 90, 100, width, width, 3, 33, 50, width % 16 != 0});
  }
  list.push_back({1, 4, 2, 50, 60, 64, 40, 0, 1, 100, true, true});
  list.push_back({2, 4, 1, 50, 60, 64, 64, 0, 1, 31, false, false, true});
  for (int64_t width : {8, 64, 100}) {
    list.push_back({2, 4, 2, 50, 60, width, width, 0, 1, 41, true, false, false, true});
    list.push_back({2, 2, 2, 50, 60, width, width, 3, 20, 41, false, true, true, true});
  }
  list.push_back({1, 2, 2, 3, 1, 64, 64, 0, 1, 5});
  list.push_back({1, 2, 2, 5, 0, 64, 64, 0, 1, 5});
  list.push_back({1, 2, 2, 0, 5, 64, 64, 0, 1, 5});
  list.push_back({1, 2, 2, 5, 5, 64, 64, 0, 1, 0});
  list.push_back({0, 2, 2, 5, 5, 64, 64, 0, 1, 4});
  list.push_back({1, 1, 1, 6, 6, 300, 20, 0, 1, 4});  // wider than the kernels
  for (const Combine how : {Combine::sum, Combine::mean, Combine::merge}) {
    list.push_back({2, 2, 2, 100, 100, 64, 64, 4, 64, 64, false, false, false, false, how});
    list.push_back({1, 2, 2, 300, 300, 64, 64, 5, 130, 129, true, false, false, false, how});
    list.push_back({2, 4, 2, 150, 170, 128, 96, 3, 65, 200, true, true, false, false, how});
    list.push_back({2, 2, 1, 150, 170, 64, 64, 3, 100, 63, true, false, true, false, how});
    list.push_back({1, 2, 2, 90, 90, 256, 256, 2, 70, 70, true, false, false, false, how});
    list.push_back({1, 1, 1, 20, 20, 16, 16, 0, 4, 4, false, false, false, false, how});
  }
  return list;
}

Tensor normal(const Shape& shape, uint64_t salt) {
  const Tensor x = empty(shape, {DType::f64, {}});
  kernels::normal(x, 0, 1, {0x6a7e, salt});
  return x;
}

Tensor ids(const Shape& shape, int64_t low, int64_t high, uint64_t salt) {
  return samples::integers(shape, low, std::max(low + 1, high), salt).to(DType::i32);
}

TensorList inputs_of(const Case& c) {
  const int64_t b = c.shared ? 1 : c.batch, h = c.shared ? 1 : c.heads;
  const int64_t lists = c.groups > 0 ? c.groups : c.queries;
  return {normal({c.batch, c.heads, c.queries, c.width}, 1),
          normal({c.batch, c.key_heads, c.keys, c.width}, 2),
          normal({c.batch, c.key_heads, c.keys, c.value_width}, 3),
          ids({b, h, lists, c.listed}, -1, c.keys, 4),
          ids({b, h, lists, c.group_queries}, -1, c.queries, 5),
          ids({c.batch}, 1, c.keys + 1, 6),
          ids({1, c.heads, c.queries}, 0, 50, 7),
          ids({c.batch, 1, c.keys}, 0, 50, 8),
          normal({c.heads, 12}, 9)};
}

TensorFunction function_of(const Case& c, bool reference) {
  return [c, reference](const TensorList& in) {
    AttentionOptions options{.causal = c.causal};
    if (c.ruled) {
      options = {.left = 20,
                 .right = 5,
                 .key_lengths = in[5],
                 .query_positions = in[6],
                 .key_positions = in[7]};
    }
    if (c.scored) options.score = offset_bias(in[8], 9);
    AttentionResult r;
    if (c.groups == 0) {
      r = (reference ? gather_attention_reference : gather_attention)(in[0], in[1], in[2], in[3],
                                                                      options);
    } else if (reference) {
      r = combine_slots_reference(
          grouped_gather_attention_reference(in[0], in[1], in[2], in[4], in[3], options), in[4],
          c.queries, c.how);
    } else {
      r = grouped_gather_attention(in[0], in[1], in[2], in[4], in[3], c.how, options);
    }
    return TensorList{r.output, r.logsumexp};
  };
}

}  // namespace

TEST_SUITE("cuda") {
  TEST_CASE("attention over lists on CUDA gives what it gives on the CPU in f64") {
    if (!has_gpu()) return;
    for (DType dtype : kFloating) {
      Failures failures(fmt::format("gather attention in {}", dtype));
      for (const Case& c : cases()) {
        const std::string subject = fmt::format("{}", dtype), label = label_of(c);
        const TensorList inputs = inputs_of(c);
        auto on_gpu = [&](bool reference) {
          return evaluate(function_of(c, reference), inputs_for(inputs, dtype, dtype, kGpu, true),
                          dtype);
        };
        Results want, got, again, composed;
        const bool ran = attempt_case(failures, subject, label, [&] {
          want = evaluate(function_of(c, false), inputs_for(inputs, dtype, DType::f64, {}, true),
                          dtype);
          got = on_gpu(false);
          again = on_gpu(false);
        });
        if (!ran) continue;
        if (is_half(dtype)) {
          attempt(failures, subject, label + ", composed", [&] { composed = on_gpu(true); });
        }
        compare(failures, subject, label, dtype, got, want, composed);
        compare_bits(failures, subject, label, got, again);
      }
      failures.report();
    }
  }

  TEST_CASE("attention over lists on CUDA counts the entries that the CPU counts") {
    if (!has_gpu()) return;
    for (const Case& c : cases()) {
      if (c.width > 256) continue;  // runs by its definition
      CAPTURE(label_of(c));
      const TensorList inputs = inputs_of(c);
      auto counted = [&](DType dtype, DType stored, Device device) {
        const TensorList in = inputs_for(inputs, dtype, stored, device);
        const int64_t before = score_entries();
        function_of(c, false)(in);
        return score_entries() - before;
      };
      const int64_t want = counted(DType::f64, DType::f64, {});
      CHECK(counted(DType::f32, DType::f32, kGpu) == want);
      CHECK(counted(DType::bf16, DType::bf16, kGpu) == want);
    }
  }

  TEST_CASE("attention over lists on CUDA gives the same bits many times on a full device") {
    if (!has_gpu()) return;
    Failures failures("gather attention, repeated");
    for (const Case& c : {Case{2, 8, 8, 2048, 2048, 64, 64, 0, 1, 128, true},
                          Case{2, 8, 4, 2048, 2048, 64, 64, 16, 192, 192, true}}) {
      const TensorList inputs = inputs_for(inputs_of(c), DType::bf16, DType::bf16, kGpu, true);
      auto results = [&] { return evaluate(function_of(c, false), inputs, DType::bf16); };
      const Results first = results();
      for (int i = 0; i < 20; ++i) {
        compare_bits(failures, "bf16", label_of(c), first, results());
      }
    }
    failures.report();
  }
}
