#include "tessera/analysis/color.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <span>

namespace tessera {
namespace {

constexpr std::array<Color, 10> kSequential = {{{68, 1, 84},
                                                {72, 40, 120},
                                                {62, 74, 137},
                                                {49, 104, 142},
                                                {38, 130, 142},
                                                {31, 158, 137},
                                                {53, 183, 121},
                                                {109, 205, 89},
                                                {180, 222, 44},
                                                {253, 231, 37}}};
constexpr std::array<Color, 7> kDiverging = {{{24, 74, 138},
                                              {72, 138, 193},
                                              {168, 205, 226},
                                              {245, 245, 244},
                                              {246, 190, 163},
                                              {217, 106, 84},
                                              {150, 24, 42}}};
constexpr std::array<Color, 8> kCategories = {{{0, 114, 178},
                                               {230, 159, 0},
                                               {0, 158, 115},
                                               {213, 94, 0},
                                               {204, 121, 167},
                                               {86, 180, 233},
                                               {120, 112, 40},
                                               {90, 90, 100}}};

uint8_t byte(double x) {
  return static_cast<uint8_t>(std::lround(std::clamp(x, 0.0, 255.0)));
}

Color between(std::span<const Color> table, double x) {
  const double at = std::clamp(x, 0.0, 1.0) * static_cast<double>(table.size() - 1);
  const size_t i = std::min(static_cast<size_t>(at), table.size() - 2);
  return mix(table[i], table[i + 1], at - static_cast<double>(i));
}

// A colour of a hue in turns, of medium lightness.
Color of_hue(double hue, double value) {
  const auto channel = [&](double shift) {
    const double wave = 0.5 + 0.5 * std::cos(2 * 3.14159265358979 * (hue - shift));
    return byte(255 * value * (0.25 + 0.75 * wave));
  };
  return {channel(0), channel(1.0 / 3), channel(2.0 / 3)};
}

}  // namespace

Color map_color(double x, ColorMap map) {
  if (std::isnan(x)) return colors::kMissing;
  return map == ColorMap::sequential ? between(kSequential, x) : between(kDiverging, x);
}

Color category_color(int64_t category) {
  if (category < 0) return colors::kMissing;
  const auto i = static_cast<size_t>(category);
  if (i < kCategories.size()) return kCategories[i];
  const double turns = 0.618033988749895 * static_cast<double>(category);  // never comes back
  return of_hue(turns - std::floor(turns), category % 2 == 0 ? 0.95 : 0.7);
}

Color mix(Color a, Color b, double share) {
  const auto channel = [share](uint8_t x, uint8_t y) { return byte(x + share * (y - x)); };
  return {channel(a.r, b.r), channel(a.g, b.g), channel(a.b, b.b)};
}

Color text_on(Color c) {
  const double light = 0.299 * c.r + 0.587 * c.g + 0.114 * c.b;
  return light > 140 ? colors::kInk : colors::kWhite;
}

std::string hex(Color c) {
  return fmt::format("#{:02x}{:02x}{:02x}", c.r, c.g, c.b);
}

}  // namespace tessera
