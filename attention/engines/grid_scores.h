// The functor behind grid_bias, for kernels that look its table up by themselves.
#pragma once

#include "tessera/attention/engines/score.h"
#include "tessera/attention/engines/windows.h"

namespace tessera {

// Where a token stands on its lines.
struct GridPlace {
  int at[kAxes];

  TESSERA_HD static GridPlace of_query(const WindowRule& rule, int token) {
    GridPlace p;
    for (int a = kAxes - 1; a >= 0; --a) {
      const AxisWindows& x = rule.axis[a];
      p.at[a] = x.origin_of(token % x.queries / x.dilation);
      token /= x.queries;
    }
    return p;
  }
  TESSERA_HD static GridPlace of_key(const WindowRule& rule, int token) {
    GridPlace p;
    for (int a = kAxes - 1; a >= 0; --a) {
      const AxisWindows& x = rule.axis[a];
      p.at[a] = token % x.keys / x.dilation;
      token /= x.keys;
    }
    return p;
  }
};

struct GridBias {
  static constexpr std::string_view name = "grid_bias";
  static constexpr int tables = 1;
  WindowRule windows;
  int64_t per_head;  // 0: one table for all

  Shape table_shape(int, const ScoreSizes& sizes) const {
    Shape shape{per_head == 0 ? 1 : sizes.heads};
    for (int a = kAxes - windows.axes; a < kAxes; ++a) {
      shape.push_back(2 * windows.axis[a].window - 1);
    }
    return shape;
  }

  TESSERA_HD int64_t index(int, const ScorePlace& at) const {
    const GridPlace q = GridPlace::of_query(windows, at.query);
    const GridPlace k = GridPlace::of_key(windows, at.key);
    int64_t place = 0;
    for (int a = 0; a < kAxes; ++a) {
      const int window = windows.axis[a].window, ahead = k.at[a] - q.at[a] + window - 1;
      if (ahead < 0 || ahead > 2 * window - 2) return -1;
      place = place * (2 * window - 1) + ahead;
    }
    return at.head * per_head + place;
  }
  bool differs(ScoreAxis axis) const { return axis == ScoreAxis::head && per_head != 0; }
  template <class T>
  TESSERA_HD T operator()(T s, T entry) const {
    return s + entry;
  }
};

}  // namespace tessera
