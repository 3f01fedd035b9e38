#include "tessera/train/parameter.h"

#include <map>

#include "tessera/core/kernels/copy.h"

namespace tessera {
namespace {

bool ends_with_any(const std::string& name, const std::vector<std::string>& endings) {
  for (const std::string& ending : endings) {
    if (name.ends_with(ending)) return true;
  }
  return false;
}

}  // namespace

std::vector<Parameter> parameters_of(Module& module, const std::vector<std::string>& no_decay) {
  std::vector<Parameter> list;
  for (const auto& [name, tensor] : module.parameters()) {
    list.push_back({name, tensor, tensor.rank() >= 2 && !ends_with_any(name, no_decay)});
  }
  return list;
}

std::vector<Parameter> place(Module& module, Device device, DType dtype,
                             const std::vector<std::string>& no_decay) {
  module.to(device);
  const NamedTensors full = module.parameters();
  if (is_half(dtype)) module.parameters_to(dtype);
  std::vector<Parameter> list = parameters_of(module, no_decay);
  for (size_t i = 0; i < list.size(); ++i) {
    if (is_half(dtype)) list[i].master = full[i].second.detach();
  }
  return list;
}

NamedTensors full_state(Module& module, const std::vector<Parameter>& parameters) {
  std::map<std::string, Tensor> masters;
  for (const Parameter& p : parameters) {
    if (p.master.defined()) masters[p.name] = p.master;
  }
  NamedTensors state = module.state();
  for (auto& [name, tensor] : state) {
    const auto found = masters.find(name);
    if (found != masters.end()) tensor = found->second;
  }
  return state;
}

void load_full_state(Module& module, const std::vector<Parameter>& parameters,
                     const NamedTensors& state) {
  module.load_state(state);
  const std::map<std::string, Tensor> given(state.begin(), state.end());
  for (const Parameter& p : parameters) {
    if (p.master.defined()) kernels::copy(p.master, given.at(p.name));
  }
}

void round_masters(const std::vector<Parameter>& parameters) {
  for (const Parameter& p : parameters) {
    if (p.master.defined()) kernels::copy(p.value, p.master);
    p.value.bump_version();
  }
}

}  // namespace tessera
