// Gradient checks of everything that is registered: ops, layers, mechanisms and models, each in a
// tiny form and in f64. `tessera gradcheck` and the conformance tests run these rows.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "tessera/autograd/gradcheck.h"

namespace tessera {

struct GradcheckRow {
  std::string kind;  // "op", "layer", "attention", "feed_forward", "positions", "model"
  std::string name;
  std::function<GradcheckResult()> run;
};

std::vector<GradcheckRow> gradcheck_rows();

}  // namespace tessera
