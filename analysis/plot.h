// Plots: each is a plain struct of what is to be seen and a function that draws it.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tessera/analysis/canvas.h"

namespace tessera {

// A matrix as coloured cells, row 0 on top.
struct HeatMap {
  Tensor values;  // (rows, columns), any dtype, on any device
  std::string title = {};
  std::string x_label = {}, y_label = {};
  std::vector<std::string> row_names = {}, column_names = {};  // at the ticks; else indices
  std::optional<double> low = {}, high = {};  // the range of the colours; else that of the values
  ColorMap colors = ColorMap::sequential;     // diverging: the range is made even around 0
  bool bar = true;                            // shows what the colours mean
  bool show_values = false;                   // writes each value into its cell
  int64_t cell = 0;  // pixels of a cell; 0: as fits a map of about 320 pixels
};
Canvas draw(const HeatMap& map);

// A curve, or points without lines between them.
struct Series {
  std::string name;
  std::vector<double> x, y;  // equally many; what is not finite is left out
  bool line = true;
  bool points = false;
  std::optional<Color> color = {};  // else the palette's, in order
};

struct Chart {
  std::string title = {};
  std::string x_label = {}, y_label = {};
  std::vector<Series> series = {};
  bool log_x = false, log_y = false;          // values ≤ 0 are left out then
  std::optional<double> low = {}, high = {};  // of the y axis
  std::vector<std::string> x_names = {};      // at x = 0, 1, …, instead of numbers
  int64_t width = 720, height = 420;
};
Canvas draw(const Chart& chart);

// Points with labels; those of a group share a colour. `frontier` joins points by a line.
struct Mark {
  double x = 0, y = 0;
  std::string label = {};
  int64_t group = 0;
  double spread = 0;  // a bar from y − spread to y + spread
};
struct Scatter {
  std::string title = {};
  std::string x_label = {}, y_label = {};
  std::vector<Mark> marks = {};
  std::vector<std::string> groups = {};  // names for the legend
  std::vector<Point> frontier = {};
  bool log_x = false, log_y = false;
  int64_t width = 720, height = 480;
};
Canvas draw(const Scatter& scatter);

// A text whose pieces (characters, tokens) have backgrounds, broken into lines of `columns` letters
// and at line breaks, which are shown.
struct TextStrip {
  struct Piece {
    std::string text;
    std::optional<Color> background = {};
  };
  std::string title = {};
  std::vector<Piece> pieces = {};
  std::vector<std::pair<std::string, Color>> legend = {};
  int64_t columns = 80;
  int64_t scale = 2;
};
Canvas draw(const TextStrip& strip);

// An image with a heat map laid over it, enlarged so that the longer side has about `side` pixels.
struct Overlay {
  Tensor image;  // (1|3, H, W) in [0, 1]
  Tensor heat;   // (rows, columns) over the whole image; undefined: the image alone
  std::string title = {};
  std::optional<double> low = {}, high = {};
  double opacity = 0.6;
  int64_t side = 224;
};
Canvas draw(const Overlay& overlay);

// Pictures in rows of `columns`, each with a caption below, under a common title.
struct Captioned {
  Canvas canvas;
  std::string caption = {};
};
Canvas draw_grid(const std::vector<Captioned>& panels, int64_t columns,
                 const std::string& title = {});

}  // namespace tessera
