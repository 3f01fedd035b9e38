#include "tessera/models/pyramid.h"

#include <doctest/doctest.h>

#include "tessera/autograd/tape.h"
#include "tessera/config/fields.h"
#include "tessera/config/json.h"
#include "tessera/core/create.h"
#include "tessera/core/random.h"
#include "tessera/tests/support.h"

using namespace tessera;
using namespace tessera::test;

namespace {

std::unique_ptr<Model> build(const std::string& text, int64_t size) {
  RandomScope scope(1);
  return from_json<Choice<Model>>(Json::parse(text))
      .build(DataInfo{.channels = 3, .height = size, .width = size, .classes = 5});
}

}  // namespace

TEST_CASE("a pyramid halves its grid from stage to stage, with a mixer of its own in each") {
  auto model = build(R"({"type": "pyramid", "patch": 2, "attention": "gpsa", "stages": [
      {"depth": 2, "width": 8, "heads": 1, "attention": {"type": "neighborhood", "window": 3}},
      {"depth": 2, "width": 16, "heads": 2, "layers": [{"at": [-1], "attention": "dense"}]},
      {"depth": 1, "width": 32, "heads": 4, "feed_forward": "ista"}]})",
                     16);
  auto& pyramid = dynamic_cast<Pyramid&>(*model);
  CHECK(pyramid.blocks.size() == 5);
  CHECK(pyramid.mergings.size() == 2);
  CHECK(pyramid.positions.shape() == Shape{1, 64, 8});
  CHECK(pyramid.head.weight.shape() == Shape{5, 32});
  NoGrad off;
  CHECK(pyramid.logits(samples::normal({2, 3, 16, 16}).to(DType::f32), {}).shape() == Shape{2, 5});
}

TEST_CASE("merging lays the vectors of 2 x 2 patches side by side") {
  RandomScope scope(1);
  PatchMerging merge(1, 3, {2, 4});
  NoGrad off;
  const Tensor x = from_values(std::vector<float>{0, 1, 2, 3, 4, 5, 6, 7}, {1, 8, 1});
  const Tensor cells = from_values(std::vector<float>{0, 1, 4, 5, 2, 3, 6, 7}, {1, 2, 4});
  CHECK(worst(merge(x), merge.reduction(merge.norm(cells))) < 1e-6);
}

TEST_CASE("a grid that cannot be halved is refused with its sizes") {
  CHECK_THROWS_WITH_AS(build(R"({"type": "pyramid", "patch": 4})", 12),
                       doctest::Contains("a grid of 3 x 3 patches cannot be halved"), Error);
  CHECK_THROWS_WITH_AS(build(R"({"type": "pyramid", "stages": []})", 8),
                       doctest::Contains("model.stages is empty"), Error);
}
