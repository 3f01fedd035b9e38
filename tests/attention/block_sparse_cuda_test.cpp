// Masks of blocks on a CUDA device, and attention over them and over windows in halves: against the
// CPU in f64 over block sizes, head sizes and borders, the same bits in every run.
#include "tessera/attention/engines/block_sparse.h"
#include "tessera/attention/engines/dense.h"
#include "tessera/attention/patterns.h"
#include "tessera/autograd/ops/comparison.h"
#include "tessera/core/view.h"
#include "tessera/tests/support.h"

using namespace tessera;
using namespace tessera::test;

namespace {

Tensor normal(const Shape& shape, uint64_t salt) {
  const Tensor x = empty(shape, {DType::f64, {}});
  kernels::normal(x, 0, 1, {0xb10c, salt});
  return x;
}

Tensor random_blocks(const Shape& shape, double share, uint64_t salt) {
  const Tensor x = empty(shape, {DType::f32, {}});
  kernels::uniform(x, 0, 1, {0xb10d, salt});
  std::vector<uint8_t> bytes;
  for (float v : x.to_vector<float>()) bytes.push_back(v < share ? 1 : 0);
  return from_values(bytes, shape);
}

struct Case {
  int64_t batch, heads, key_heads, queries, keys, width, value_width;
  int64_t block_q, block_k;  // 0: no mask
  int64_t left = -1, right = -1;
  int64_t mask_batch = 1, mask_heads = 1;
  double share = 0.5;
};

std::string label_of(const Case& c) {
  return fmt::format("B {} H {}/{} N {}/{} D {}/{} blocks {}x{} window {},{}", c.batch, c.heads,
                     c.key_heads, c.queries, c.keys, c.width, c.value_width, c.block_q, c.block_k,
                     c.left, c.right);
}

std::vector<Case> cases() {
  std::vector<Case> list;
  for (int64_t width : {16, 64, 80, 128, 256}) {
    for (auto [q, k] :
         {std::pair<int64_t, int64_t>{64, 64}, {128, 128}, {64, 128}, {256, 128}, {128, 256}}) {
      for (int64_t right : {-1, 0}) {
        list.push_back({1, 2, 2, 500, 500, width, width, q, k, -1, right, 1, 2});
      }
    }
    for (auto [left, right] :
         {std::pair<int64_t, int64_t>{0, 0}, {30, 0}, {-1, 5}, {100, -1}, {70, 90}}) {
      list.push_back({1, 2, 2, 333, 333, width, width, 0, 0, left, right});
    }
  }
  list.push_back({2, 4, 2, 300, 300, 64, 64, 128, 128, -1, 0, 2, 4});
  list.push_back({2, 4, 1, 300, 300, 128, 128, 64, 64, -1, 0, 2, 1});
  list.push_back({1, 4, 2, 40, 400, 64, 64, 128, 128, -1, 0, 1, 4});
  list.push_back({1, 4, 2, 40, 400, 64, 64, 64, 64, 50, 0, 1, 4});
  list.push_back({1, 2, 2, 400, 100, 64, 64, 64, 64, -1, 0, 1, 2});        // queries without keys
  list.push_back({1, 2, 2, 700, 700, 64, 64, 64, 64, -1, -1, 1, 2, 0.1});  // empty rows
  list.push_back({1, 8, 2, 700, 700, 64, 64, 128, 128, -1, -1, 1, 8, 0.05});
  list.push_back({1, 2, 2, 600, 600, 128, 128, 256, 512, 100, 40, 1, 2});
  list.push_back({1, 2, 1, 130, 130, 40, 96, 64, 64, -1, 0});
  list.push_back({1, 2, 2, 65, 66, 5, 3, 64, 64, 20, -1});
  list.push_back({1, 2, 2, 0, 5, 8, 8, 64, 64});
  list.push_back({1, 2, 2, 100, 300, 64, 64, 0, 0, 40, 10});
  list.push_back({1, 4, 2, 300, 100, 64, 64, 0, 0, 40, 250});
  list.push_back({1, 2, 2, 200, 200, 64, 64, 32, 32, -1, 0, 1, 2});  // smaller than a tile
  return list;
}

TensorList inputs_of(const Case& c) {
  TensorList list{normal({c.batch, c.heads, c.queries, c.width}, 1),
                  normal({c.batch, c.key_heads, c.keys, c.width}, 2),
                  normal({c.batch, c.key_heads, c.keys, c.value_width}, 3)};
  if (c.block_q > 0) {
    const BlockGrid g{c.queries, c.keys, c.block_q, c.block_k, -1, -1, {}};
    list.push_back(
        random_blocks({c.mask_batch, c.mask_heads, g.query_blocks(), g.key_blocks()}, c.share, 4));
  }
  return list;
}

TensorFunction function_of(const Case& c, bool composed) {
  return [c, composed](const TensorList& in) {
    AttentionResult r;
    if (c.block_q > 0) {
      const BlockGrid g{c.queries, c.keys, c.block_q, c.block_k, c.left, c.right, in[0].device()};
      const BlockMask m = block_mask(in[3], g);
      r = (composed ? block_sparse_attention_reference : block_sparse_attention)(in[0], in[1],
                                                                                 in[2], m, {});
    } else {
      const AttentionOptions o{.left = c.left, .right = c.right};
      r = (composed ? dense_attention_reference : dense_attention)(in[0], in[1], in[2], o);
    }
    const Tensor nothing = eq(r.logsumexp, -INFINITY);
    return TensorList{r.output, masked_fill(r.logsumexp, nothing, -100)};
  };
}

void check_case(Failures& failures, const Case& c, DType dtype) {
  const std::string label = label_of(c);
  const std::string subject =
      fmt::format("{} D {} in {} x {}", dtype, c.width, c.block_q, c.block_k);
  const TensorList inputs = inputs_of(c);
  auto on_gpu = [&](bool composed) {
    return evaluate(function_of(c, composed), inputs_for(inputs, dtype, dtype, kGpu, true), dtype);
  };
  Results want, got, again, composed;
  const bool ran = attempt_case(failures, subject, label, [&] {
    want = evaluate(function_of(c, false), inputs_for(inputs, dtype, DType::f64, {}, true), dtype);
    got = on_gpu(false);
    again = on_gpu(false);
  });
  if (!ran) return;
  if (is_half(dtype)) {
    attempt(failures, subject, label + ", composed", [&] { composed = on_gpu(true); });
  }
  compare(failures, subject, label, dtype, got, want, composed);
  compare_bits(failures, subject, label, got, again);
}

void check_cases(bool (*wanted)(const Case&)) {
  if (!has_gpu()) return;
  for (DType dtype : {DType::bf16, DType::f16}) {
    Failures failures(fmt::format("attention in {}", dtype));
    for (const Case& c : cases()) {
      if (wanted(c)) check_case(failures, c, dtype);
    }
    failures.report();
  }
}

using Build = std::function<BlockMask(Device)>;

// Patterns with their tensors moved to the device.
std::vector<std::pair<const char*, Build>> patterns() {
  auto grid = [](Device device, int64_t right = 0) {
    return BlockGrid{1000, 1100, 64, 32, -1, right, device};
  };
  auto moved = [](const Tensor& x, Device device) { return kernels::to_device(x, device); };
  const Tensor scores = kernels::cast(normal({2, 3, 16, 35}, 5), DType::f32);
  const Tensor keys = samples::integers({1, 3, 9}, -1, 1100, 6).to(DType::i32);
  const Tensor distances = samples::integers({2, 1, 5}, -1, 1100, 7);
  const Tensor lists = samples::integers({1, 3, 16, 4}, -1, 35, 8).to(DType::i32);
  return {
      {"all", [=](Device d) { return all_blocks(grid(d)); }},
      {"window",
       [=](Device d) {
         BlockGrid g = grid(d, 70);
         g.left = 130;
         return all_blocks(g);
       }},
      {"sinks", [=](Device d) { return sink_blocks(grid(d), 40, 200); }},
      {"strided",
       [=](Device d) {
         return strided_blocks({1024, 1088, 64, 64, -1, 0, d},
                               {.heads = 8, .key_heads = 4, .local = 2, .stride = 5});
       }},
      {"vertical and slash",
       [=](Device d) {
         return vertical_slash_blocks(grid(d), moved(keys, d), moved(distances, d));
       }},
      {"top", [=](Device d) { return top_blocks(grid(d), moved(scores, d), 5); }},
      {"threshold", [=](Device d) { return threshold_blocks(grid(d), moved(scores, d), 1, 2); }},
      {"listed", [=](Device d) { return listed_blocks(grid(d, -1), moved(lists, d)); }},
      {"union",
       [=](Device d) {
         return union_of({sink_blocks(grid(d), 40, 10), top_blocks(grid(d), moved(scores, d), 2)});
       }},
      {"mixture",
       [=](Device d) {
         return mixture_of({all_blocks(grid(d)), listed_blocks(grid(d, -1), moved(lists, d))},
                           {1, 0, 1});
       }},
  };
}

}  // namespace

TEST_SUITE("cuda") {
  TEST_CASE("masks built on CUDA are those built on the CPU") {
    if (!has_gpu()) return;
    for (const auto& pattern : patterns()) {
      const auto& build = pattern.second;
      CAPTURE(pattern.first);
      const BlockMask here = build({}), there = build(kGpu);
      auto same = [](const Tensor& a, const Tensor& b) {
        return same_bits(a, kernels::to_device(b, {}));
      };
      CHECK(same(here.map, there.map));
      CHECK(same(here.keys_of.counts, there.keys_of.counts));
      CHECK(same(here.keys_of.index, there.keys_of.index));
      CHECK(same(here.queries_of.counts, there.queries_of.counts));
      CHECK(same(here.queries_of.index, there.queries_of.index));
      CHECK_FALSE(overflowed(there));
      CHECK(count_entries(here) == count_entries(there));
      CHECK(same(hidden_entries(here), hidden_entries(there)));
    }
  }

  TEST_CASE("a list beyond its capacity is cut on CUDA and leaves a mark") {
    if (!has_gpu()) return;
    const BlockGrid g{320, 320, 32, 32, -1, 0, kGpu};
    const Tensor all = full({1, 2, 10, 10}, 1, {DType::u8, kGpu});
    const BlockMask cut = block_mask(all, g, {.keys = 7});
    CHECK(overflowed(cut));
    const auto counts = cut.keys_of.counts.to_vector<int32_t>();
    for (size_t r = 0; r < 20; ++r) {
      CHECK(counts[2 * r] == 1);
      CHECK(counts[2 * r + 1] == static_cast<int32_t>(std::min<size_t>(r % 10, 6)));
    }
    CHECK_FALSE(overflowed(block_mask(all, g, {.keys = 10})));
  }

  TEST_CASE("attention over blocks of 128 on CUDA gives what it gives on the CPU in f64") {
    check_cases([](const Case& c) { return c.block_q == 128 && c.block_k == 128; });
  }
  TEST_CASE("attention in a window on CUDA gives what it gives on the CPU in f64") {
    check_cases([](const Case& c) { return c.block_q == 0; });
  }
  TEST_CASE("blocks of 128 and windows on CUDA give it with sums in any order, too") {
    const AnyOrder any;
    check_cases([](const Case& c) {
      return std::max(c.width, c.value_width) <= 64 && c.block_q == c.block_k &&
             (c.block_q == 0 || c.block_q == 128);
    });
  }
  // Their scores of 0 lie far above all others.
  TEST_CASE("keys that there are not add nothing to gradients on CUDA, in any order") {
    if (!has_gpu()) return;
    const AnyOrder any;
    const Case c{1, 1, 1, 200, 200, 64, 64, 0, 0, 100, 50};
    const Options f64{DType::f64, {}};
    const Shape shape{1, 1, 200, 64};
    const TensorList inputs{full(shape, 4, f64), full(shape, -4, f64), normal(shape, 3)};
    for (DType dtype : {DType::bf16, DType::f16}) {
      const Results got =
          evaluate(function_of(c, false), inputs_for(inputs, dtype, dtype, kGpu, true), dtype);
      for (const auto& [label, x] : got) {
        CAPTURE(label);
        const Tensor values = kernels::cast(kernels::to_device(x, {}), DType::f64);
        for (double v : values.to_vector<double>()) REQUIRE(std::isfinite(v));
      }
    }
  }
  TEST_CASE("attention over other blocks on CUDA gives what it gives on the CPU in f64") {
    check_cases([](const Case& c) { return c.block_q > 0 && c.block_q * c.block_k != 128 * 128; });
  }

  TEST_CASE("score entries of a mask are counted on CUDA as on the CPU") {
    if (!has_gpu()) return;
    for (int64_t block : {32, 64, 128}) {
      const BlockGrid g{300, 300, block, block, -1, 0, kGpu};
      const Tensor active = random_blocks({1, 4, g.query_blocks(), g.key_blocks()}, 0.5, 9);
      const BlockMask m = block_mask(kernels::to_device(active, kGpu), g);
      BlockGrid nearer = g;
      nearer.left = 20;
      nearer.device = {};
      const Tensor q =
          kernels::to_device(kernels::cast(normal({2, 4, 300, 16}, 1), DType::bf16), kGpu);
      const int64_t before = score_entries();
      block_sparse_attention(q, q, q, m);
      const int64_t between = score_entries();
      block_sparse_attention(q, q, q, m, {.left = 20});
      CHECK(between - before == 2 * count_entries(m));
      CHECK(score_entries() - between == 2 * count_entries(block_mask(active, nearer)));
    }
  }
}
