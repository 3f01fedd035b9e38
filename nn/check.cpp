#include "tessera/nn/check.h"

#include <algorithm>

namespace tessera {
namespace {

// The addresses of all parameters, in listing order, each tensor once.
class Slots final : public Members {
 public:
  std::vector<std::vector<Tensor*>> tensors;  // handles that share one tensor stand together

 protected:
  void parameter(const std::string&, Tensor& tensor) override {
    for (auto& group : tensors) {
      if (group.front()->is_same(tensor)) {
        group.push_back(&tensor);
        return;
      }
    }
    tensors.push_back({&tensor});
  }
  void on_buffer(const std::string&, Tensor&) override {}
};

}  // namespace

GradcheckResult check_module(Module& module, const ModuleFunction& run, const TensorList& inputs,
                             const GradcheckOptions& options) {
  module.to(DType::f64);
  Slots slots;
  slots.walk(module);
  TensorList all = inputs;
  for (const auto& group : slots.tensors) all.push_back(group.front()->detach());
  const TensorFunction f = [&](const TensorList& values) {
    for (size_t i = 0; i < slots.tensors.size(); ++i) {
      for (Tensor* handle : slots.tensors[i]) *handle = values[inputs.size() + i];
    }
    return run(module,
               TensorList(values.begin(), values.begin() + static_cast<ptrdiff_t>(inputs.size())));
  };
  return gradcheck(f, all, options);
}

LayerRegistry& LayerRegistry::instance() {
  static auto* registry = new LayerRegistry;
  return *registry;
}

void LayerRegistry::add(LayerInfo info) {
  for (const LayerInfo& row : rows_) {
    check(row.name != info.name, "layer registry: \"{}\" is registered twice", info.name);
  }
  rows_.push_back(std::move(info));
}

std::vector<const LayerInfo*> LayerRegistry::all() const {
  std::vector<const LayerInfo*> list;
  for (const LayerInfo& row : rows_) list.push_back(&row);
  std::sort(list.begin(), list.end(), [](auto* a, auto* b) { return a->name < b->name; });
  return list;
}

}  // namespace tessera
