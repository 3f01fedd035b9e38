// The functor behind contextual_bias. Its kernels take a compiler long: each number of axes has a
// file of its own.
#pragma once

#include <algorithm>

#include "tessera/attention/engines/grid_scores.h"

namespace tessera {

// One table per axis.
template <int kCount>
struct ContextualBias {
  static constexpr std::string_view name = "contextual_bias";
  static constexpr int tables = kCount;
  WindowRule windows;
  int64_t batch[kCount], head[kCount];  // strides

  Shape table_shape(int table, const ScoreSizes& sizes) const {
    return {batch[table] == 0 ? 1 : sizes.batch, head[table] == 0 ? 1 : sizes.heads, sizes.queries,
            2 * windows.axis[kAxes - kCount + table].window - 1};
  }
  TESSERA_HD int64_t index(int table, const ScorePlace& at) const {
    const int a = kAxes - kCount + table;
    const int window = windows.axis[a].window;
    const int ahead = GridPlace::of_key(windows, at.key).at[a] -
                      GridPlace::of_query(windows, at.query).at[a] + window - 1;
    if (ahead < 0 || ahead > 2 * window - 2) return -1;
    return at.batch * batch[table] + at.head * head[table] + int64_t{at.query} * (2 * window - 1) +
           ahead;
  }
  bool differs(ScoreAxis axis) const {
    const auto apart = [](int64_t stride) { return stride != 0; };
    if (axis == ScoreAxis::batch) return std::all_of(batch, batch + kCount, apart);
    if (axis == ScoreAxis::head) return std::all_of(head, head + kCount, apart);
    return axis == ScoreAxis::query;
  }
  template <class T, class... Entries>
  TESSERA_HD T operator()(T s, Entries... entries) const {
    return (s + ... + entries);
  }
};

// Checks the tables.
template <int kCount>
ContextualBias<kCount> contextual_functor(const TensorList& list, const WindowRule& windows) {
  ContextualBias<kCount> f{windows, {}, {}};
  for (int n = 0; n < kCount; ++n) {
    const Tensor& x = list[static_cast<size_t>(n)];
    const int64_t places = 2 * windows.axis[kAxes - kCount + n].window - 1;
    check(x.rank() == 4 && x.size(2) == windows.queries() && x.size(3) == places,
          "contextual_bias: table {} is {}; it must be (B or 1, H or 1, {}, {})", n, x.shape(),
          windows.queries(), places);
    f.head[n] = x.size(1) == 1 ? 0 : x.size(2) * x.size(3);
    f.batch[n] = x.size(0) == 1 ? 0 : x.size(1) * x.size(2) * x.size(3);
  }
  return f;
}

Score contextual_bias_1(const TensorList& tables, const WindowRule& windows);
Score contextual_bias_2(const TensorList& tables, const WindowRule& windows);
Score contextual_bias_3(const TensorList& tables, const WindowRule& windows);

}  // namespace tessera
