// Gradient checks of modules: every layer registers a small sample of itself.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tessera/autograd/gradcheck.h"
#include "tessera/nn/module.h"

namespace tessera {

using ModuleFunction = std::function<TensorList(Module& module, const TensorList& inputs)>;

// gradcheck of run(module, inputs) with respect to the f64 inputs and every parameter. The module
// is converted to f64 for good.
GradcheckResult check_module(Module& module, const ModuleFunction& run, const TensorList& inputs,
                             const GradcheckOptions& options = {});

struct LayerInfo {
  std::string name;
  std::string formula;
  std::string source;
  std::function<std::unique_ptr<Module>()> make;
  ModuleFunction run;
  std::function<TensorList()> inputs;
};

class LayerRegistry {
 public:
  static LayerRegistry& instance();
  void add(LayerInfo info);
  std::vector<const LayerInfo*> all() const;  // sorted by name

 private:
  std::vector<LayerInfo> rows_;
};

struct RegisterLayer {
  RegisterLayer(LayerInfo info) { LayerRegistry::instance().add(std::move(info)); }
};

}  // namespace tessera
