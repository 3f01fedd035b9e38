#include "tessera/attention/engines/grid_scores.h"

#include "tessera/attention/engines/contextual_bias.h"
#include "tessera/attention/engines/make_score.h"
#include "tessera/attention/engines/neighborhood.h"

namespace tessera {

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
  if (windows.axes == 1) return contextual_bias_1(tables, windows);
  if (windows.axes == 2) return contextual_bias_2(tables, windows);
  return contextual_bias_3(tables, windows);
}

}  // namespace tessera
