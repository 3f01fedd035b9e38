// Gradient checks of everything that is registered: ops, layers, mechanisms and models, each in a
// tiny form and in f64. `tessera gradcheck` and the conformance tests run these rows.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tessera/nn/check.h"

namespace tessera {

struct GradcheckRow {
  std::string kind;  // "op", "layer", "attention", "feed_forward", "gate", "positions", "model"
  std::string name;
  std::function<GradcheckResult()> run;
};

std::vector<GradcheckRow> gradcheck_rows();

// A registered layer, mechanism or model in its tiny form, and what it is run on. `make` gives the
// same weights at every call.
struct ModuleSample {
  std::string kind;
  std::string name;
  std::function<std::unique_ptr<Module>()> make;
  ModuleFunction run;
  TensorList inputs;
};

std::vector<ModuleSample> module_samples();

}  // namespace tessera
