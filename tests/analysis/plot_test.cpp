#include "tessera/analysis/plot.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "tessera/analysis/axes.h"
#include "tessera/analysis/font.h"
#include "tessera/core/create.h"
#include "tessera/core/error.h"
#include "tessera/core/random.h"
#include "tessera/data/image.h"

using namespace tessera;

namespace {

int64_t count(const Canvas& canvas, Color color) {
  int64_t n = 0;
  for (int64_t y = 0; y < canvas.height(); ++y) {
    for (int64_t x = 0; x < canvas.width(); ++x) n += canvas.pixel(x, y) == color;
  }
  return n;
}

int64_t dots(char32_t letter) {
  int64_t n = 0;
  for (int64_t row = 0; row < font::kRows; ++row) {
    for (int64_t column = 0; column < font::kAdvance; ++column) n += font::ink(letter, row, column);
  }
  return n;
}

}  // namespace

TEST_CASE("every printable letter has ink, a shape of its own, and a gap on its right") {
  std::vector<std::string> shapes;
  for (char32_t c = U'!'; c <= U'~'; ++c) {
    CHECK_MESSAGE(dots(c) > 0, static_cast<int>(c));
    std::string shape;
    for (int64_t row = 0; row < font::kRows; ++row) {
      CHECK_FALSE(font::ink(c, row, font::kAdvance - 1));
      for (int64_t column = 0; column < 5; ++column) shape += font::ink(c, row, column) ? '#' : '.';
    }
    CHECK(std::find(shapes.begin(), shapes.end(), shape) == shapes.end());
    shapes.push_back(shape);
  }
  CHECK(dots(U' ') == 0);
  CHECK(dots(U'\u6f22') == dots(U'\U0001F600'));  // unknown: the same box
}

TEST_CASE("what is drawn outside a canvas is cut off") {
  Canvas c(10, 6);
  c.rectangle(-5, -5, 100, 7, {1, 2, 3});
  CHECK(count(c, {1, 2, 3}) == 20);
  c.line({-1e9, 3}, {1e9, 3}, {9, 9, 9}, 1);
  CHECK(count(c, {9, 9, 9}) == 10);
  c.disc({200, 200}, 5, {7, 7, 7});
  c.text(-3, -3, "text that is longer than the canvas", {.scale = 3});
  c.polyline(std::vector<Point>{{NAN, 1}, {2, 2}, {INFINITY, 3}}, {8, 8, 8});
  CHECK(count(c, {8, 8, 8}) == 0);
  CHECK_THROWS_WITH_AS(c.pixel(10, 0), doctest::Contains("canvas: no pixel (10, 0)"), Error);
  CHECK_THROWS_WITH_AS(Canvas(0, 3), doctest::Contains("canvas: 0 x 3"), Error);
}

TEST_CASE("a canvas comes back from its PNG") {
  Canvas c(7, 5);
  c.rectangle(1, 1, 3, 2, {200, 100, 50});
  c.text(0, 0, "a");
  const Tensor back = decode_image(c.to_png(), "png");
  CHECK(back.shape() == Shape{3, 5, 7});
  Canvas again(7, 5);
  again.image(0, 0, 7, 5, back);
  CHECK(again.to_tensor().to_vector<float>() == c.to_tensor().to_vector<float>());
}

TEST_CASE("ticks are round numbers inside the range") {
  const Scale linear = Scale::of({0, 1, 7, NAN}, false);
  CHECK(linear.ticks(5) == std::vector<double>{0, 2, 4, 6});
  const Scale log = Scale::of({1, 1000, -4}, true);
  CHECK(log.ticks(5).front() == doctest::Approx(1));
  CHECK(log.ticks(5).back() == doctest::Approx(1000));
  CHECK(std::isnan(log(0)));
  CHECK(Scale::of({}, false).ticks(2).size() >= 2);
  CHECK(Scale::of({3, 3}, false).ticks(4).size() >= 2);
  CHECK(tick_text(0) == "0");
  CHECK(tick_text(1500) == "1500");
  CHECK(tick_text(20000) == "20k");
  CHECK(tick_text(3e6) == "3M");
  CHECK(tick_text(0.25) == "0.25");
}

TEST_CASE("a heat map gives each entry the colour of its value, and NaN its own") {
  const Tensor v = tensor({0, 1, 0.5, NAN}, {2, 2});
  const Canvas c = draw(HeatMap{.values = v, .bar = false, .cell = 10});
  CHECK(count(c, map_color(0)) == 100);
  CHECK(count(c, map_color(1)) == 100);
  CHECK(count(c, map_color(0.5)) == 100);
  CHECK(count(c, colors::kMissing) == 100);
  const Tensor integers = arange(0, 6);
  CHECK_THROWS_WITH_AS(draw(HeatMap{.values = integers}), doctest::Contains("heat_map"), Error);
}

TEST_CASE("plots of nothing, of one point and of constants are pictures too") {
  CHECK(draw(Chart{}).width() == 720);
  CHECK(draw(Chart{.series = {{.name = "one", .x = {1}, .y = {2}}}}).width() == 720);
  CHECK(draw(Chart{.series = {{.name = "nan", .x = {1, 2}, .y = {NAN, NAN}}}, .log_y = true})
            .width() == 720);
  CHECK(draw(Scatter{.marks = {{1, 1, "a", 0}}}).width() == 720);
  CHECK(draw(TextStrip{}).width() > 0);
  CHECK(draw(HeatMap{.values = zeros({3, 1})}).width() > 0);
  CHECK(draw_grid({}, 3).width() > 0);
  CHECK_THROWS_WITH_AS(draw(Chart{.series = {{.name = "s", .x = {1}, .y = {}}}}),
                       doctest::Contains("chart: series \"s\" has 1 x and 0 y"), Error);
}

TEST_CASE("a text strip breaks lines at its width and at line breaks") {
  const auto height = [](std::vector<std::string> pieces) {
    TextStrip strip{.columns = 10, .scale = 1};
    for (const std::string& p : pieces) strip.pieces.push_back({p, category_color(1)});
    return draw(strip).height();
  };
  const int64_t one = height({"abc"}), line = height({"a\n", "b"}) - one;
  CHECK(line > 0);
  CHECK(height({"abcdefghij"}) == one);
  CHECK(height({"abcdefg", "hijk"}) == one + line);
  CHECK(height({"a\n\nb"}) == one + 2 * line);
}

TEST_CASE("an overlay colours the part of the image that a cell of the heat covers") {
  const Tensor heat = tensor({0, 0, 0, 1}, {2, 2});
  const Canvas c = draw(Overlay{.image = zeros({1, 4, 4}), .heat = heat, .opacity = 1, .side = 8});
  CHECK(c.width() == 8);
  CHECK(c.height() == 8);
  CHECK(count(c, map_color(1)) == 16);
  CHECK(c.pixel(7, 7) == map_color(1));
}
