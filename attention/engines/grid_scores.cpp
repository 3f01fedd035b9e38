#include "tessera/attention/engines/grid_scores.h"

#include <algorithm>

#include "tessera/attention/engines/make_score.h"
#include "tessera/attention/engines/neighborhood.h"

namespace tessera {
namespace {

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

template <int kCount>
Score contextual(const TensorList& list, const WindowRule& windows) {
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
  return make_score(f, list);
}

}  // namespace

Score grid_bias(const Tensor& table, const WindowRule& windows) {
  Shape wanted;
  for (int a = kAxes - windows.axes; a < kAxes; ++a) {
    const AxisWindows& x = windows.axis[a];
    check(x.block > 0 || (!x.causal && x.window % 2 == 1),
          "grid_bias: an axis has {} windows of {}; a neighborhood with biases wants odd windows "
          "and no causal axis",
          x.causal ? "causal" : "even", x.window);
    wanted.push_back(2 * x.window - 1);
  }
  Shape places = table.shape();
  if (!places.empty()) places.erase(0);
  check(table.rank() == windows.axes + 1 && places == wanted,
        "grid_bias: the table is {}; it must be (H or 1) followed by {}", table.shape(), wanted);
  const int64_t per_head = table.size(0) == 1 ? 0 : wanted.numel();
  return make_score(GridBias{windows, per_head}, {table});
}

Score contextual_bias(const TensorList& tables, const WindowRule& windows) {
  check(static_cast<int>(tables.size()) == windows.axes, "contextual_bias: {} tables for {} axes",
        tables.size(), windows.axes);
  if (windows.axes == 1) return contextual<1>(tables, windows);
  if (windows.axes == 2) return contextual<2>(tables, windows);
  return contextual<3>(tables, windows);
}

}  // namespace tessera
