// Generation on CUDA beside the CPU's.
#include <doctest/doctest.h>

#include <limits>

#include "tessera/config/fields.h"
#include "tessera/config/json.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/inference/batch_sampler.h"
#include "tessera/inference/generate.h"
#include "tessera/tests/support.h"

using namespace tessera;

namespace {

using Sequences = std::vector<std::vector<int64_t>>;

const Sequences kPrompts = {{1, 2, 3}, {4}, {5, 6, 7, 8, 0, 1, 2, 3, 4, 5, 6, 7, 8}, {1, 2, 3}};

std::unique_ptr<Model> model(const std::string& changes) {
  RandomScope scope(3);
  Json json = Json::parse(R"({"type": "transformer", "width": 32, "depth": 2, "heads": 2,
                              "init_std": 0.4, "positions": "learned"})");
  json.merge_patch(Json::parse(changes));
  auto m = from_json<Choice<Model>>(json).build(DataInfo{.vocabulary = 9, .context = 16});
  m->eval();
  return m;
}

Sequences texts(Model& m, const GenerateOptions& options, int64_t last = -1) {
  Sequences out(kPrompts.size());
  generate(dynamic_cast<LanguageModel&>(m), kPrompts, options, [&](size_t b, int64_t token) {
    out[b].push_back(token);
    return token != last;
  });
  return out;
}

}  // namespace

TEST_SUITE("cuda") {
  TEST_CASE("a batch of prompts becomes on CUDA what it becomes on the CPU") {
    if (!test::has_gpu()) return;
    for (const char* changes :
         {"{}", R"({"positions": "rotary", "attention": {"type": "dense", "kv_heads": 1}})",
          R"({"positions": "alibi"})", R"({"positions": "relative_bias"})",
          R"({"attention": {"type": "window", "window": 3}})"}) {
      CAPTURE(changes);
      const auto m = model(changes);
      std::vector<GenerateOptions> cases = {{.tokens = 40, .sampling = {.temperature = 0}},
                                            {.tokens = 40, .seed = 7}};
      cases.push_back({.tokens = 40,
                       .sampling = {.temperature = 0.9,
                                    .top_k = 6,
                                    .top_p = 0.9,
                                    .min_p = 0.05,
                                    .repetition_penalty = 1.2},
                       .seed = 3});
      std::vector<Sequences> expected;
      for (const auto& o : cases) expected.push_back(texts(*m, o));
      m->to(test::kGpu);
      for (size_t i = 0; i < cases.size(); ++i) {
        CAPTURE(i);
        GenerateOptions o = cases[i];
        CHECK(texts(*m, o) == expected[i]);
        o.page_size = 4;
        CHECK(texts(*m, o) == expected[i]);
        o.graph = false;
        CHECK(texts(*m, o) == expected[i]);
        o.page_size = 0;
        CHECK(texts(*m, o) == expected[i]);
      }
    }
  }

  TEST_CASE("sequences that are over leave the others as they are on CUDA") {
    if (!test::has_gpu()) return;
    const auto m = model("{}");
    const GenerateOptions options{.tokens = 60, .seed = 2};
    const Sequences expected = texts(*m, options, 3);
    m->to(test::kGpu);
    CHECK(texts(*m, options, 3) == expected);
  }

  TEST_CASE("draws on CUDA are the CPU's for large vocabularies and any restriction") {
    if (!test::has_gpu()) return;
    for (const int64_t vocabulary : {1, 2, 1000, 50257, 200003}) {
      const Tensor logits = empty({3, vocabulary}, {DType::f32, {}});
      for (const SamplingOptions& o :
           {SamplingOptions{.temperature = 0}, SamplingOptions{}, SamplingOptions{.top_k = 40},
            SamplingOptions{.temperature = 1.3, .top_p = 0.8}, SamplingOptions{.top_p = 0},
            SamplingOptions{.top_k = 1}, SamplingOptions{.min_p = 0.02},
            SamplingOptions{
                .top_k = 500, .top_p = 0.9, .min_p = 0.01, .repetition_penalty = 1.5}}) {
        CAPTURE(vocabulary);
        CAPTURE(o.top_k);
        CAPTURE(o.top_p);
        CAPTURE(o.min_p);
        const Sequences seen = {{0}, {vocabulary / 2}, {}};
        BatchSampler cpu(o, {1, 2, 3}, seen, vocabulary, {});
        BatchSampler cuda(o, {1, 2, 3}, seen, vocabulary, test::kGpu);
        int differences = 0;
        for (uint64_t i = 0; i < 20; ++i) {
          kernels::normal(logits, 0, 2, {9, i});
          cpu.draw(logits);
          cuda.draw(kernels::to_device(logits, test::kGpu));
          const auto a = cpu.drawn().to_vector<int64_t>(), b = cuda.drawn().to_vector<int64_t>();
          for (size_t r = 0; r < a.size(); ++r) differences += a[r] != b[r];
        }
        CHECK(differences <= 1);  // of 60: where two sums round to the two sides of a number
      }
    }
  }

  TEST_CASE("a row without finite logits is told apart on CUDA, others do not mind") {
    if (!test::has_gpu()) return;
    const float none = std::numeric_limits<float>::quiet_NaN();
    const Tensor logits = from_values(std::vector<float>{none, none, 1, 2}, {2, 2});
    BatchSampler sampler({.temperature = 0}, {1, 2}, {{}, {}}, 2, test::kGpu);
    sampler.draw(kernels::to_device(logits, test::kGpu));
    CHECK(sampler.drawn().to_vector<int64_t>() == std::vector<int64_t>{-1, 1});
    CHECK(sampler.ids().to_vector<int64_t>() == std::vector<int64_t>{0, 1});
  }
}
