#include "tessera/nn/module.h"

#include <cxxabi.h>

#include <atomic>
#include <cstdlib>
#include <map>
#include <mutex>

#include "tessera/core/kernels/copy.h"

namespace tessera {
namespace {

std::atomic<int64_t> born{0};
std::atomic<int> listeners{0};

// Collects the listing into lists, each tensor once.
class Collect final : public Members {
 public:
  std::vector<std::pair<std::string, Tensor*>> parameters;
  std::vector<std::pair<std::string, Tensor*>> buffers;
  std::vector<std::pair<std::string, Module*>> modules;

 protected:
  void parameter(const std::string& path, Tensor& tensor) override {
    if (seen_.insert(&tensor.impl()).second) parameters.emplace_back(path, &tensor);
  }
  void on_buffer(const std::string& path, Tensor& tensor) override {
    if (seen_.insert(&tensor.impl()).second) buffers.emplace_back(path, &tensor);
  }
  void on_module(const std::string& path, Module& module) override {
    modules.emplace_back(path, &module);
  }

 private:
  std::set<const TensorImpl*> seen_;
};

Collect collect(Module& module) {
  Collect all;
  all.walk(module);
  return all;
}

NamedTensors values(const std::vector<std::pair<std::string, Tensor*>>& list) {
  NamedTensors result;
  for (const auto& [path, tensor] : list) result.emplace_back(path, *tensor);
  return result;
}

// Every handle on a shared tensor must move to the same new one.
class Convert final : public Members {
 public:
  explicit Convert(std::function<Tensor(const Tensor&)> convert, bool buffers = true)
      : convert_(std::move(convert)), buffers_(buffers) {}

 protected:
  void parameter(const std::string&, Tensor& tensor) override { replace(tensor, true); }
  void on_buffer(const std::string&, Tensor& tensor) override {
    if (buffers_) replace(tensor, false);
  }

 private:
  void replace(Tensor& tensor, bool is_parameter) {
    auto [entry, fresh] = moved_.try_emplace(&tensor.impl());
    if (fresh) {
      keep_.push_back(tensor);
      entry->second = convert_(tensor.detach());
      if (is_parameter) entry->second.set_requires_grad(tensor.requires_grad());
    }
    tensor = entry->second;
  }
  std::function<Tensor(const Tensor&)> convert_;
  bool buffers_;
  std::map<const TensorImpl*, Tensor> moved_;
  TensorList keep_;
};

}  // namespace

void Members::on_module(const std::string&, Module&) {}

void Members::walk(Module& module, const std::string& prefix) {
  const std::string saved = std::exchange(prefix_, prefix);
  on_module(prefix, module);
  module.members(*this);
  prefix_ = saved;
}

void Members::enter(std::string_view name, Module& module) {
  walk(module, join(name));
}

std::string Members::join(std::string_view name) const {
  return prefix_.empty() ? std::string(name) : prefix_ + "." + std::string(name);
}

std::string_view Members::next_name(std::string_view& names) {
  const size_t comma = names.find(',');
  std::string_view name = names.substr(0, comma);
  names.remove_prefix(comma == std::string_view::npos ? names.size() : comma + 1);
  while (name.starts_with(' ')) name.remove_prefix(1);
  while (name.ends_with('_') || name.ends_with(' ')) name.remove_suffix(1);
  return name;
}

std::string Module::type_name() const {
  int status = 0;
  char* text = abi::__cxa_demangle(typeid(*this).name(), nullptr, nullptr, &status);
  std::string name = status == 0 ? text : typeid(*this).name();
  std::free(text);
  return name.substr(name.rfind(':') == std::string::npos ? 0 : name.rfind(':') + 1);
}

NamedTensors Module::parameters() {
  return values(collect(*this).parameters);
}
NamedTensors Module::buffers() {
  return values(collect(*this).buffers);
}

NamedTensors Module::state() {
  const Collect all = collect(*this);
  NamedTensors result = values(all.parameters);
  for (auto& entry : values(all.buffers)) result.push_back(std::move(entry));
  return result;
}

int64_t Module::parameter_count() {
  int64_t count = 0;
  for (const auto& [path, tensor] : parameters()) count += tensor.numel();
  return count;
}

void Module::load_state(const NamedTensors& state) {
  std::map<std::string, Tensor> given(state.begin(), state.end());
  const NamedTensors own = this->state();
  std::vector<std::string> problems;
  for (const auto& [path, tensor] : own) {
    const auto found = given.find(path);
    if (found == given.end()) {
      problems.push_back(fmt::format("\"{}\" is missing", path));
    } else if (found->second.shape() != tensor.shape()) {
      problems.push_back(fmt::format("\"{}\" has shape {}, the model wants {}", path,
                                     found->second.shape(), tensor.shape()));
    }
    if (found != given.end()) given.erase(path);
  }
  for (const auto& [path, tensor] : given) {
    problems.push_back(fmt::format("\"{}\" is not in the model", path));
  }
  const size_t shown = std::min<size_t>(problems.size(), 5);
  check(problems.empty(), "load_state: {}{}",
        fmt::join(problems.begin(), problems.begin() + static_cast<ptrdiff_t>(shown), "; "),
        problems.size() > shown ? fmt::format("; and {} more", problems.size() - shown) : "");
  const std::map<std::string, Tensor> source(state.begin(), state.end());
  for (const auto& [path, tensor] : own) {
    kernels::copy(tensor, source.at(path));
    tensor.bump_version();
  }
}

namespace {

std::function<Tensor(const Tensor&)> cast_to(DType dtype) {
  return [dtype](const Tensor& x) { return is_floating(x.dtype()) ? kernels::cast(x, dtype) : x; };
}

}  // namespace

void Module::to(DType dtype) {
  Convert(cast_to(dtype)).walk(*this);
}

void Module::parameters_to(DType dtype) {
  Convert(cast_to(dtype), false).walk(*this);
}

bool Module::all_capturable() {
  for (const auto& [path, module] : collect(*this).modules) {
    if (!module->capturable()) return false;
  }
  return true;
}

void Module::to(Device device) {
  Convert convert([device](const Tensor& x) { return kernels::to_device(x, device); });
  convert.walk(*this);
}

Device Module::device() {
  const NamedTensors all = state();
  return all.empty() ? Device{} : all.front().second.device();
}

void Module::train(bool on) {
  for (auto& [path, module] : collect(*this).modules) module->training_ = on;
}

void Module::zero_grad() {
  for (const auto& [path, tensor] : parameters()) tensor.set_grad({});
}

std::string Module::summary() {
  std::string text;
  for (auto& [path, module] : collect(*this).modules) {
    const int64_t count = module->parameter_count();
    if (count == 0) continue;
    text += fmt::format("{:<40} {:<24} {:>12}\n", path.empty() ? "(model)" : path,
                        module->type_name(), count);
  }
  return text;
}

Tensor Module::parameter(const Tensor& initial) {
  ++born;
  Tensor tensor = initial.detach();
  return tensor.set_requires_grad();
}

int64_t parameters_born() {
  return born;
}

// Probes. Paths are looked up by address when a scope opens, so modules need not know them.

struct ProbeScope::State {
  std::map<const Module*, std::string> paths;
  ProbeListener listener;
};

namespace {
std::mutex scopes_mutex;
std::vector<ProbeScope*>& scopes() {
  static auto* list = new std::vector<ProbeScope*>;
  return *list;
}
}  // namespace

ProbeScope::ProbeScope(Module& root, ProbeListener listener) : state_(std::make_unique<State>()) {
  for (auto& [path, module] : collect(root).modules) state_->paths[module] = path;
  state_->listener = std::move(listener);
  std::lock_guard lock(scopes_mutex);
  scopes().push_back(this);
  ++listeners;
}

ProbeScope::~ProbeScope() {
  std::lock_guard lock(scopes_mutex);
  std::erase(scopes(), this);
  --listeners;
}

bool Module::listening() {
  return listeners.load(std::memory_order_relaxed) > 0;
}

void Module::notify(std::string_view name, const Tensor& value) const {
  std::vector<ProbeScope*> open;
  {
    std::lock_guard lock(scopes_mutex);
    open = scopes();
  }
  for (ProbeScope* scope : open) {
    const auto found = scope->state_->paths.find(this);
    if (found == scope->state_->paths.end()) continue;
    const std::string& prefix = found->second;
    scope->state_->listener(prefix.empty() ? std::string(name) : prefix + "." + std::string(name),
                            value);
  }
}

}  // namespace tessera
