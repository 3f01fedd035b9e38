// Colours of pictures: a few names, maps from numbers, a palette for categories.
#pragma once

#include <cstdint>
#include <string>

namespace tessera {

struct Color {
  uint8_t r = 0, g = 0, b = 0;
  bool operator==(const Color&) const = default;
};

namespace colors {
constexpr Color kWhite{255, 255, 255};
constexpr Color kInk{34, 38, 46};         // text and axes
constexpr Color kSoft{120, 126, 136};     // ticks, captions
constexpr Color kGrid{226, 229, 233};     // lines behind curves
constexpr Color kMissing{200, 203, 208};  // where a value is not a number
}  // namespace colors

// sequential: dark violet over teal to yellow, lightness rising evenly (viridis, van der Walt and
// Smith 2015); diverging: blue over near white to red, for signed values.
enum class ColorMap { sequential, diverging };

// The colour of x in [0, 1], clamped; kMissing for NaN.
Color map_color(double x, ColorMap map = ColorMap::sequential);
// Distinct colours for categories 0, 1, …; the first eight are told apart by the colour-blind too
// (Okabe and Ito 2008). Negative ones are kMissing.
Color category_color(int64_t category);
// a with a share of b in it: mix(c, kWhite, 0.7) is a background to read text on.
Color mix(Color a, Color b, double share);
// Black or white, whichever reads better on the colour.
Color text_on(Color background);
std::string hex(Color color);  // "#1f77b4"

}  // namespace tessera
