#include <algorithm>

#include "tessera/analysis/axes.h"
#include "tessera/analysis/font.h"
#include "tessera/analysis/plot.h"
#include "tessera/data/utf8.h"

namespace tessera {
namespace {

constexpr int64_t kGap = 10;

// A letter in its place.
struct Cell {
  std::string letter;
  std::optional<Color> background;
  int64_t line, column;
  bool first;  // of its piece
};

std::vector<Cell> set_type(const TextStrip& strip) {
  std::vector<Cell> cells;
  int64_t line = 0, column = 0;
  for (const TextStrip::Piece& piece : strip.pieces) {
    bool first = true;
    for (const char32_t symbol : font::symbols(piece.text)) {
      if (column == strip.columns) {
        ++line;
        column = 0;
      }
      std::string letter;
      append_symbol(letter, symbol);
      cells.push_back({std::move(letter), piece.background, line, column++, first});
      first = false;
      if (symbol == U'\n') {
        ++line;
        column = 0;
      }
    }
  }
  return cells;
}

}  // namespace

Canvas draw(const TextStrip& strip) {
  check(strip.columns >= 1 && strip.scale >= 1, "text_strip: {} columns at scale {}", strip.columns,
        strip.scale);
  const std::vector<Cell> cells = set_type(strip);
  const int64_t s = strip.scale, advance = font::kAdvance * s, line = (font::kRows + 4) * s;
  const int64_t lines = cells.empty() ? 1 : cells.back().line + 1;
  const int64_t wide = strip.columns * advance;
  int64_t top = kGap + (strip.title.empty() ? 0 : text_height(2) + 8);
  const int64_t legend_top = top;
  top += draw_legend(nullptr, 0, 0, wide, strip.legend) + (strip.legend.empty() ? 0 : 6);
  Canvas canvas(std::max(wide, text_width(strip.title, 2)) + 2 * kGap, top + lines * line + kGap);
  canvas.text(kGap, kGap, strip.title, {.scale = 2});
  draw_legend(&canvas, kGap, legend_top, wide, strip.legend);
  for (const Cell& c : cells) {
    const int64_t x = kGap + c.column * advance, y = top + c.line * line;
    if (c.background) canvas.rectangle(x, y, advance, line - s, *c.background);
    if (c.first && c.background && c.column > 0) {
      canvas.rectangle(x, y, 1, line - s, mix(*c.background, colors::kWhite, 0.6));
    }
    const Color ink = c.background ? text_on(*c.background) : colors::kInk;
    const bool faint = c.letter == "\n";
    canvas.text(
        x, y + 2 * s, c.letter,
        {.color = faint ? mix(ink, c.background.value_or(colors::kWhite), 0.6) : ink, .scale = s});
  }
  return canvas;
}

}  // namespace tessera
