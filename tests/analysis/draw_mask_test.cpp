#include "tessera/analysis/draw_mask.h"

#include <doctest/doctest.h>

#include "tessera/attention/patterns.h"
#include "tessera/core/create.h"
#include "tessera/core/view.h"

using namespace tessera;

namespace {

// Red and blue of a pixel, which tell the kinds apart.
std::pair<double, double> pixel(const Tensor& image, int64_t y, int64_t x) {
  const auto all = image.to_vector<float>();
  const int64_t at = y * image.size(2) + x, plane = image.size(1) * image.size(2);
  return {all[static_cast<size_t>(at)], all[static_cast<size_t>(2 * plane + at)]};
}

}  // namespace

TEST_CASE("a picture of a mask shows partial, full and hidden blocks in their places") {
  const BlockMask m = all_blocks({.queries = 8, .keys = 8, .block_q = 2, .block_k = 2, .right = 0});
  const Tensor image = draw_mask(m);
  CHECK(image.shape() == Shape{3, 8 + 160 + 8, 8 + 160 + 8});
  for (int64_t i = 0; i < 4; ++i) {
    for (int64_t j = 0; j < 4; ++j) {
      const auto [red, blue] = pixel(image, 8 + i * 40 + 20, 8 + j * 40 + 20);
      CHECK((red > 0.9 && blue < 0.5) == (i == j));  // orange
      CHECK((red < 0.5 && blue > 0.5) == (i > j));   // blue
      CHECK((red > 0.9 && blue > 0.9) == (i < j));   // nothing
    }
  }
}

TEST_CASE("heads and masks stand side by side, a block of a long sequence is one pixel") {
  const BlockGrid g{.queries = 400, .keys = 400, .block_q = 2, .block_k = 2, .right = 0};
  const BlockMask one = all_blocks(g);
  const BlockMask three = strided_blocks(g, {.heads = 3, .key_heads = 3, .stride = 3});
  CHECK(draw_masks({one, three}).shape() == Shape{3, 8 + 200 + 8, 8 + 4 * 208});
  CHECK(draw_masks({one, three}, 2).shape() == Shape{3, 8 + 2 * 208, 8 + 2 * 208});
  CHECK_THROWS_WITH_AS(draw_masks({one}, 0), doctest::Contains("draw_masks"), Error);
}
