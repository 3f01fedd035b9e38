// Axes: numbers become pixels, and ticks are put at round numbers.
#pragma once

#include <string>
#include <vector>

#include "tessera/analysis/canvas.h"

namespace tessera {

// A number as people write it on an axis: 0.05, 20, 1.5k, 3M, 2e-05.
std::string tick_text(double value);

struct Scale {
  double low = 0, high = 1;  // of the data; of its logarithm to base 10 when `log`
  double from = 0, to = 1;   // pixels
  bool log = false;

  // The scale that shows all finite (and positive, for log) values with a small margin; `fixed`
  // ends have none.
  static Scale of(const std::vector<double>& values, bool log);

  double operator()(double value) const;           // the pixel; NaN where it has none
  std::vector<double> ticks(int64_t count) const;  // about `count` round numbers in the range
};

// The frame of a plot: margins for title, labels, ticks and a legend below the title.
struct Frame {
  std::string title, x_label, y_label;
  std::vector<std::pair<std::string, Color>> legend;
  std::vector<std::string> x_names;
  int64_t width, height;
};

// Draws frame, grid and ticks, and sets the pixels of both scales.
Canvas draw_frame(const Frame& frame, Scale& x, Scale& y);

// The names of colours in one or more lines from (x, y) on; gives the height taken.
int64_t draw_legend(Canvas* canvas, int64_t x, int64_t y, int64_t width,
                    const std::vector<std::pair<std::string, Color>>& legend, int64_t scale = 1);

}  // namespace tessera
