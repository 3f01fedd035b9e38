#include "tessera/attention/engines/decode.h"

#include "tessera/attention/attention.h"
#include "tessera/attention/engines/dense.h"
#include "tessera/attention/engines/scores.h"
#include "tessera/attention/kv_cache.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/core/parallel.h"
#include "tessera/core/view.h"
#include "tessera/tests/support.h"

using namespace tessera;
using namespace tessera::test;

namespace {

struct Case {
  int64_t batch, heads, key_heads, queries, keys, width, value_width;
  bool causal = true;
  bool lengths = false;  // sequences of different lengths, one of them empty
  bool padding = false;  // of the queries
  int64_t selected = 0;  // keys, or blocks of keys, in a list with padding
  int64_t selected_size = 1;
  bool slopes = false;
};

std::string label_of(const Case& c) {
  return fmt::format(
      "B {} H {}/{} N {}/{} D {}/{}{}{}{} list {}x{}{}", c.batch, c.heads, c.key_heads, c.queries,
      c.keys, c.width, c.value_width, c.causal ? " causal" : "", c.lengths ? " lengths" : "",
      c.padding ? " padding" : "", c.selected, c.selected_size, c.slopes ? " slopes" : "");
}

std::vector<Case> cases() {
  std::vector<Case> list;
  for (int64_t group : {1, 3, 4, 8}) {
    list.push_back({2, 2 * group, 2, 1, 300, 64, 64});
    list.push_back({1, 2 * group, 2, 5, 129, 32, 48});
    list.push_back({1, group, 1, 16, 40, 16, 16});
    list.push_back({3, 2 * group, 2, 3, 500, 64, 64, true, true, true, 0, 1, true});
    list.push_back({3, group, 1, 2, 400, 128, 128, true, true, false, 37, 1, true});
    list.push_back({2, group, 1, 1, 640, 64, 64, true, true, false, 5, 16});
  }
  for (int64_t width : {8, 24, 40, 80, 128, 256}) {
    list.push_back({1, 4, 2, 1, 200, width, width});
    list.push_back({2, 2, 2, 4, 17, width, width, false, true});
  }
  list.push_back({1, 2, 2, 1, 1, 64, 64});
  list.push_back({1, 2, 2, 1, 5000, 64, 64});  // more than one length of pieces
  list.push_back({2, 1, 1, 1, 17000, 16, 16, true, true});
  list.push_back({1, 2, 1, 30, 100, 64, 64});  // more queries than a tile has rows
  list.push_back({1, 2, 2, 8, 5, 64, 64});     // the first see nothing
  list.push_back({1, 2, 2, 2, 50, 5, 3});      // rows not in 16-byte pieces
  list.push_back({1, 2, 2, 2, 50, 300, 20});   // wider than tensor cores take
  list.push_back({1, 2, 2, 0, 5, 8, 8});
  list.push_back({0, 2, 2, 1, 5, 8, 8});
  list.push_back({1, 2, 2, 1, 0, 8, 8});
  return list;
}

Tensor normal(const Shape& shape, uint64_t salt) {
  const Tensor x = empty(shape, {DType::f64, {}});
  kernels::normal(x, 0, 1, {0xdec0, salt});
  return x;
}

Tensor i32(const std::vector<int32_t>& values, const Shape& shape) {
  return from_values(values, shape);
}

struct Inputs {
  Tensor query, key, value;
  DecodeOptions options;
};

// f64 on the CPU.
Inputs inputs_of(const Case& c) {
  Inputs in{normal({c.batch, c.heads, c.queries, c.width}, 1),
            normal({c.batch, c.key_heads, c.keys, c.width}, 2),
            normal({c.batch, c.key_heads, c.keys, c.value_width}, 3),
            {.causal = c.causal, .selected_size = c.selected_size}};
  std::vector<int32_t> lengths, added, selected;
  for (int64_t b = 0; b < c.batch; ++b) {
    lengths.push_back(static_cast<int32_t>(b == 1 ? 0 : c.keys * (b + 1) / (b + 2)));
    added.push_back(static_cast<int32_t>(std::min<int64_t>(b, c.queries)));
  }
  if (c.lengths) in.options.lengths = i32(lengths, {c.batch});
  if (c.padding) in.options.added = i32(added, {c.batch});
  if (c.selected > 0) {
    const int64_t blocks = c.keys / c.selected_size;
    for (int64_t e = 0; e < c.batch * c.key_heads * c.selected; ++e) {
      const int64_t entry = (e * 7919 + e / c.selected * 31) % blocks;
      selected.push_back(static_cast<int32_t>(e % 5 == 3 ? -1 : entry));
    }
    in.options.selected = i32(selected, {c.batch, c.key_heads, c.selected});
  }
  if (c.slopes) {
    std::vector<float> slopes;
    for (int64_t h = 0; h < c.heads; ++h) {
      slopes.push_back(std::exp2(-8.0F * static_cast<float>(h + 1) / static_cast<float>(c.heads)));
    }
    in.options.score = alibi(from_values(slopes, {c.heads}));
  }
  return in;
}

Tensor moved(const Tensor& x, Device device) {
  return x.defined() ? kernels::to_device(x, device) : x;
}

DecodeOptions moved(DecodeOptions o, Device device) {
  for (Tensor* x : {&o.lengths, &o.added, &o.selected}) *x = moved(*x, device);
  TensorList tables = o.score.tables();
  for (Tensor& x : tables) x = moved(x, device);
  if (!tables.empty()) o.score = o.score.with(tables);
  return o;
}

Results results_of(const AttentionResult& r) {
  Results results;
  add_outputs(results, {r.output, r.logsumexp});
  return results;
}

using Engine = AttentionResult (*)(const Tensor&, const Tensor&, const Tensor&,
                                   const DecodeOptions&);

// The inputs rounded to `dtype`, keys and values to `stored`, computed in `computed`.
Results run(const Inputs& in, Engine engine, DType dtype, DType stored, bool wide, Device device) {
  auto prepared = [&](const Tensor& x, DType rounded) {
    const Tensor y = kernels::cast(x, rounded);
    return moved(wide ? kernels::cast(y, DType::f64) : y, device);
  };
  return results_of(engine(prepared(in.query, dtype), prepared(in.key, stored),
                           prepared(in.value, stored), moved(in.options, device)));
}

// The same keys in a cache, appended in two steps; the first `keys − queries` at once.
AttentionResult through_cache(const Inputs& in, CacheOptions options, DType dtype,
                              Device device = {}) {
  const Tensor q = moved(kernels::cast(in.query, dtype), device);
  const Tensor k = moved(kernels::cast(in.key, dtype), device);
  const Tensor v = moved(kernels::cast(in.value, dtype), device);
  const int64_t keys = k.size(2), first = std::max<int64_t>(0, keys - q.size(2));
  KvCache cache(keys + 7, std::move(options));
  cache.append(views::slice(k, 2, 0, first), views::slice(v, 2, 0, first));
  cache.append(views::slice(k, 2, first, keys), views::slice(v, 2, first, keys));
  return decode_attention(q, cache, moved(in.options, device));
}

CacheOptions paged(int64_t page_size) {
  return {.pool = std::make_shared<PagePool>(20000 / page_size + 10, page_size)};
}

void check_layouts(Device device) {
  for (DType dtype : {DType::f32, DType::f64, DType::bf16}) {
    if (device.is_cpu() && is_half(dtype)) continue;
    for (const Case& c :
         {Case{2, 4, 2, 1, 300, 64, 64}, Case{1, 3, 1, 4, 700, 32, 32},
          Case{1, 2, 2, 1, 5000, 16, 16}, Case{2, 4, 2, 3, 400, 64, 64, true, false, false, 90}}) {
      CAPTURE(label_of(c));
      const Inputs in = inputs_of(c);
      const Results plain = run(in, decode_attention, dtype, dtype, false, device);
      const Results held = results_of(through_cache(in, {}, dtype, device));
      for (size_t i = 0; i < 2; ++i) CHECK(same_bits(held[i].second, plain[i].second));
      for (int64_t size : {1, 16, 48, 128, 1000}) {
        CAPTURE(size);
        const Results pages = results_of(through_cache(in, paged(size), dtype, device));
        for (size_t i = 0; i < 2; ++i) CHECK(same_bits(pages[i].second, plain[i].second));
      }
    }
  }
}

// Each sequence alone gives the bits it gives among others.
void check_batches(DType dtype, Device device) {
  const Case c{3, 4, 2, 2, 900, 64, 64, true, true};
  const Inputs in = inputs_of(c);
  const Results all = run(in, decode_attention, dtype, dtype, false, device);
  for (int64_t b = 0; b < 3; ++b) {
    auto one = [&](const Tensor& x) { return kernels::clone(views::slice(x, 0, b, b + 1)); };
    Inputs alone{one(in.query), one(in.key), one(in.value), in.options};
    alone.options.lengths = one(in.options.lengths);
    const Results got = run(alone, decode_attention, dtype, dtype, false, device);
    for (size_t i = 0; i < 2; ++i) {
      CHECK(same_bits(got[i].second, kernels::clone(views::slice(all[i].second, 0, b, b + 1))));
    }
  }
}

void check_lists(DType dtype, Device device) {
  const Case c{2, 4, 2, 1, 600, 64, 64};
  Inputs in = inputs_of(c);
  const Results all = run(in, decode_attention, dtype, dtype, false, device);
  std::vector<int32_t> every(600);
  for (size_t i = 0; i < every.size(); ++i) every[i] = static_cast<int32_t>(i);
  in.options.selected = i32(every, {1, 1, 600});
  const Results listed = run(in, decode_attention, dtype, dtype, false, device);
  in.options.selected = i32({every.begin(), every.begin() + 25}, {1, 1, 25});
  in.options.selected_size = 24;
  const Results blocks = run(in, decode_attention, dtype, dtype, false, device);
  in.options.selected_size = 1;
  in.options.selected = i32({-1, -1, 600, 10000}, {1, 1, 4});
  const Results none = run(in, decode_attention, dtype, dtype, false, device);
  in.options.selected = zeros({1, 1, 0}, {DType::i32, {}});
  const Results empty_list = run(in, decode_attention, dtype, dtype, false, device);
  for (size_t i = 0; i < 2; ++i) {
    CHECK(same_bits(listed[i].second, all[i].second));
    CHECK(same_bits(blocks[i].second, all[i].second));
    for (const Results* r : {&none, &empty_list}) {
      for (double x : (*r)[i].second.to_vector<double>()) CHECK(x == (i == 0 ? 0 : -INFINITY));
    }
  }
}

}  // namespace

TEST_CASE("the decode engine equals its reference for lists, lengths, padding and slopes") {
  NoGrad off;
  for (const Case& c : cases()) {
    CAPTURE(label_of(c));
    const Inputs in = inputs_of(c);
    for (DType stored : {DType::f64, DType::bf16, DType::f16}) {
      const Results got = run(in, decode_attention, DType::f64, stored, false, {});
      const Results want = run(in, decode_attention_reference, DType::f64, stored, false, {});
      for (size_t i = 0; i < 2; ++i) {
        const Distance d = distance(got[i].second, want[i].second);
        CHECK(d.worst <= 1e-12 * std::max(1.0, d.scale));
      }
    }
  }
}

TEST_CASE("decoding equals dense attention on the same keys") {
  NoGrad off;
  for (const Case& c : {Case{2, 6, 2, 3, 333, 32, 32}, Case{1, 2, 2, 1, 4500, 8, 8}}) {
    const Inputs in = inputs_of(c);
    const AttentionResult got = decode_attention(in.query, in.key, in.value);
    const AttentionResult want = dense_attention(in.query, in.key, in.value, {.causal = true});
    CHECK(distance(got.output, want.output).worst < 1e-12);
    CHECK(distance(got.logsumexp, want.logsumexp).worst < 1e-12);
  }
}

TEST_CASE("pages of any size give the same bits as contiguous keys") {
  NoGrad off;
  check_layouts({});
}

TEST_CASE("a sequence gives the same bits alone and among others") {
  NoGrad off;
  check_batches(DType::f32, {});
}

TEST_CASE("a list of all keys gives the bits of no list, and an empty one 0 and minus infinity") {
  NoGrad off;
  check_lists(DType::f32, {});
}

TEST_CASE("prompts of different lengths decode as each alone") {
  NoGrad off;
  const Inputs in = inputs_of({3, 2, 2, 4, 30, 8, 8});
  const std::vector<int64_t> prompts{30, 11, 1};
  KvCache cache(40);
  cache.append(in.key, in.value, prompts);
  const Tensor k = normal({3, 2, 4, 8}, 7), v = normal({3, 2, 4, 8}, 8);
  const std::vector<int64_t> counts{4, 2, 0};
  cache.append(k, v, counts);
  const AttentionResult got = decode_attention(in.query, cache);
  for (int64_t b = 0; b < 3; ++b) {
    const int64_t n = counts[static_cast<size_t>(b)], past = prompts[static_cast<size_t>(b)];
    auto part = [&](const Tensor& x, int64_t count) {
      return views::slice(views::slice(x, 0, b, b + 1), 2, 0, count);
    };
    const AttentionResult want =
        dense_attention(part(in.query, n), concat({part(in.key, past), part(k, n)}, 2),
                        concat({part(in.value, past), part(v, n)}, 2), {.causal = true});
    CHECK(distance(part(got.output, n), want.output).worst < 1e-12);
    for (int64_t i = n; i < 4; ++i) {  // padding sees nothing
      const auto rows = views::select(views::select(got.output, 0, b), 1, i).to_vector<double>();
      CHECK(std::all_of(rows.begin(), rows.end(), [](double x) { return x == 0; }));
    }
  }
}

TEST_CASE("score functors in the decode engine equal their definition") {
  NoGrad off;
  const Tensor table = normal({4, 700}, 9);
  for (const Case& c : {Case{2, 4, 2, 3, 300, 16, 16, true, true, true},
                        Case{2, 4, 2, 2, 300, 16, 16, false, true, false, 40}}) {
    for (const Score& score :
         {softcap(2), distance_bias(table), offset_bias(table, 300),
          bucket_bias(transpose(slice(table, 1, 0, 200), 0, 1), 900, true), relu_squared()}) {
      CAPTURE(score.name());
      Inputs in = inputs_of(c);
      in.options.score = score;
      const Results got = run(in, decode_attention, DType::f64, DType::f64, false, {});
      const Results want = run(in, decode_attention_reference, DType::f64, DType::f64, false, {});
      for (size_t i = 0; i < 2; ++i) CHECK(distance(got[i].second, want[i].second).worst < 1e-11);
    }
  }
}

TEST_CASE("a mechanism continues prompts of different lengths, in pages, as each alone") {
  RandomScope scope(3);
  NoGrad off;
  for (const char* type : {"none", "alibi"}) {
    for (const CacheOptions& options : {CacheOptions{}, paged(4)}) {
      const auto encoding = Choice<Positions>(type).build(
          PositionGeometry{.width = 16, .context = 40, .heads = 4, .head_dim = 4});
      auto layer = Choice<Attention>("dense").build(Geometry{
          .width = 16, .heads = 4, .context = 40, .init_std = 0.3, .output_init_std = 0.3});
      const Tensor prompts = randn({3, 20, 16}), next = randn({3, 1, 16}), more = randn({3, 2, 16});
      const std::vector<int32_t> lengths{20, 7, 1};
      KvCache cache(40, options);
      auto step = [&](const Tensor& x, const Tensor& counts) {
        AttentionContext context{.causal = true, .lengths = counts, .encoding = encoding.get()};
        context.positions = arange(0, static_cast<double>(x.size(1)));
        context.cache = &cache;
        return (*layer)(x, context);
      };
      step(prompts, i32(lengths, {3}));
      step(next, {});
      const Tensor got = step(more, {});
      for (int64_t b = 0; b < 3; ++b) {
        const int64_t n = lengths[static_cast<size_t>(b)];
        auto one = [&](const Tensor& x, int64_t count) {
          return slice(slice(x, 0, b, b + 1), 1, 0, count);
        };
        AttentionContext whole{.causal = true, .encoding = encoding.get()};
        whole.positions = arange(0, static_cast<double>(n + 3));
        const Tensor want =
            (*layer)(concat({one(prompts, n), one(next, 1), one(more, 2)}, 1), whole);
        CHECK(distance(one(got, 2), slice(want, 1, n + 1, n + 3)).worst < 1e-5);
      }
    }
  }
}

TEST_CASE("decoding is bit-equal for any number of threads") {
  NoGrad off;
  const Inputs in = inputs_of({2, 4, 2, 2, 3000, 16, 16});
  const int threads = num_threads();
  set_num_threads(1);
  const Results one = run(in, decode_attention, DType::f32, DType::f32, false, {});
  set_num_threads(2);
  const Results two = run(in, decode_attention, DType::f32, DType::f32, false, {});
  set_num_threads(threads);
  for (size_t i = 0; i < 2; ++i) CHECK(same_bits(one[i].second, two[i].second));
}

TEST_CASE("decoding counts the score entries that it computes") {
  NoGrad off;
  auto counted = [](const Case& c) {
    const Inputs in = inputs_of(c);
    const int64_t before = score_entries();
    decode_attention(in.query, in.key, in.value, in.options);
    return score_entries() - before;
  };
  CHECK(counted({2, 4, 2, 1, 300, 8, 8}) == 2 * 4 * 300);
  CHECK(counted({1, 2, 2, 3, 10, 8, 8}) == 2 * (8 + 9 + 10));
  CHECK(counted({3, 2, 1, 1, 12, 8, 8, true, true}) == 2 * (6 + 0 + 9));
  CHECK(counted({1, 2, 1, 1, 100, 8, 8, true, false, false, 10}) == 2 * 8);
}

TEST_CASE("decoding refuses what it cannot do and says so") {
  const Inputs in = inputs_of({2, 4, 2, 1, 6, 8, 8});
  const auto refused = [&](const DecodeOptions& options, const char* why) {
    CHECK_THROWS_WITH_AS(decode_attention(in.query, in.key, in.value, options),
                         doctest::Contains(why), Error);
  };
  refused({.lengths = i32({1, 2, 3}, {3})}, "lengths must be");
  refused({.lengths = from_values(std::vector<int64_t>{1, 2}, {2})}, "lengths must be");
  refused({.selected = i32({1, 2, 3, 4}, {2, 2})}, "selected must be");
  refused({.selected_size = 0}, "selected_size");
  CHECK_THROWS_WITH_AS(decode_attention(in.query, in.query, in.value),
                       doctest::Contains("do not fit"), Error);
  Tensor leaf = kernels::clone(in.query);
  leaf.set_requires_grad();
  CHECK_THROWS_WITH_AS(decode_attention(leaf, in.key, in.value),
                       doctest::Contains("has no gradient"), Error);
  CHECK_THROWS_WITH_AS(decode_attention(in.query, KvCache(4)), doctest::Contains("is empty"),
                       Error);
}

TEST_SUITE("cuda") {
  TEST_CASE("decoding on CUDA gives what it gives on the CPU in f64") {
    if (!has_gpu()) return;
    NoGrad off;
    for (DType dtype : kFloating) {
      Failures failures(fmt::format("decode attention in {}", dtype));
      for (const Case& c : cases()) {
        const Inputs in = inputs_of(c);
        const std::string subject = fmt::format("{}", dtype), label = label_of(c);
        Results want, got, again, composed;
        const bool ran = attempt_case(failures, subject, label, [&] {
          want = run(in, decode_attention, dtype, dtype, true, {});
          got = run(in, decode_attention, dtype, dtype, false, kGpu);
          again = run(in, decode_attention, dtype, dtype, false, kGpu);
          if (is_half(dtype)) {
            composed = run(in, decode_attention_reference, dtype, dtype, false, kGpu);
          }
        });
        if (!ran) continue;
        compare(failures, subject, label, dtype, got, want, composed);
        compare_bits(failures, subject, label, got, again);
        if (dtype != DType::f32) continue;
        for (DType stored : {DType::bf16, DType::f16}) {  // halves in the cache alone
          attempt(failures, subject, label, [&] {
            compare(failures, subject, label + fmt::format(" over {}", stored), dtype,
                    run(in, decode_attention, dtype, stored, false, kGpu),
                    run(in, decode_attention, dtype, stored, true, {}));
          });
        }
      }
      failures.report();
    }
  }

  TEST_CASE("on CUDA pages, batches and lists give the same bits as contiguous keys alone") {
    if (!has_gpu()) return;
    NoGrad off;
    check_layouts(kGpu);
    for (DType dtype : {DType::f32, DType::bf16}) {
      check_batches(dtype, kGpu);
      check_lists(dtype, kGpu);
    }
  }
}
