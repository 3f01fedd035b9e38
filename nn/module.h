// Modules: plain structs with value members and one listing of them.
//
//   struct Mlp : Module {
//     Linear up, down;
//     Mlp(int64_t width, int64_t hidden) : up(width, hidden), down(hidden, width) {}
//     Tensor operator()(const Tensor& x) { return down(gelu(up(x))); }
//     TESSERA_MEMBERS(up, down)
//   };
//
// From the listing follow parameters, buffers, the state dict, moves between dtypes and devices,
// train and eval mode, counting and printing. A parameter's name is the dotted path of member names
// ("blocks.3.mlp.up.weight"); names are stable: they are the checkpoint format.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "tessera/core/tensor.h"

namespace tessera {

class Module;

// What a module's listing is read by. Override the kinds of members of interest.
class Members {
 public:
  virtual ~Members() = default;

  // Members by name: a Tensor is a parameter (an undefined one is absent: a linear without bias),
  // modules are listed with theirs, vectors element by element ("blocks.0"), pointers and optionals
  // by what they hold.
  template <class T>
  void operator()(std::string_view name, T& member) {
    if constexpr (std::is_same_v<T, Tensor>) {
      if (member.defined()) parameter(join(name), member);
    } else if constexpr (std::is_base_of_v<Module, T>) {
      enter(name, member);
    } else {
      nested(name, member);
    }
  }
  // State that learns without gradients or is fixed: saved and moved, but not optimised.
  void buffer(std::string_view name, Tensor& member) {
    if (member.defined()) on_buffer(join(name), member);
  }

  // For TESSERA_MEMBERS: names and addresses from one token.
  template <class... Ts>
  void list(std::string_view names, Ts&... members) {
    (operator()(next_name(names), members), ...);
  }

  void walk(Module& module, const std::string& prefix = "");

 protected:
  virtual void parameter(const std::string& path, Tensor& tensor) = 0;
  virtual void on_buffer(const std::string& path, Tensor& tensor) = 0;
  virtual void on_module(const std::string& path, Module& module);

 private:
  template <class T>
  void nested(std::string_view name, std::vector<T>& list) {
    for (size_t i = 0; i < list.size(); ++i) {
      operator()(std::string(name) + "." + std::to_string(i), list[i]);
    }
  }
  template <class T>
  void nested(std::string_view name, std::unique_ptr<T>& pointer) {
    if (pointer) operator()(name, *pointer);
  }
  template <class T>
  void nested(std::string_view name, std::shared_ptr<T>& pointer) {
    if (pointer) operator()(name, *pointer);
  }
  template <class T>
  void nested(std::string_view name, std::optional<T>& holder) {
    if (holder) operator()(name, *holder);
  }
  void enter(std::string_view name, Module& module);
  std::string join(std::string_view name) const;
  static std::string_view next_name(std::string_view& names);

  std::string prefix_;
};

using NamedTensors = std::vector<std::pair<std::string, Tensor>>;

// A listener at probe points; see Module::probe.
using ProbeListener = std::function<void(const std::string& path, const Tensor& value)>;

class Module {
 public:
  Module() = default;
  Module(const Module&) = default;
  Module(Module&&) = default;
  Module& operator=(const Module&) = default;
  Module& operator=(Module&&) = default;
  virtual ~Module() = default;

  virtual void members(Members& m) = 0;
  // The type's name in printed summaries; by default from the C++ type.
  virtual std::string type_name() const;

  NamedTensors parameters();  // in listing order; a shared tensor once, under its first name
  NamedTensors buffers();
  NamedTensors state();  // parameters and buffers, for checkpoints
  int64_t parameter_count();

  // Copies values in by name (converting dtypes). Missing, surplus or wrongly shaped tensors are
  // all named in one Error, and nothing is changed then.
  void load_state(const NamedTensors& state);

  // Converts every floating parameter and buffer, or moves all of them; handles on parameters from
  // before are stale then.
  void to(DType dtype);
  void to(Device device);
  // Converts parameters alone: state that learns by small moves keeps its precision.
  void parameters_to(DType dtype);
  Device device();  // of the first parameter or buffer; the CPU when there is none

  // Training mode switches dropout, drop-path and batch statistics; children follow.
  void train(bool on = true);
  void eval() { train(false); }
  bool training() const { return training_; }

  // False when what a forward pass does depends on the training step or on values that the host
  // reads: a step recorded into a graph would repeat the recorded one. A module says so of itself;
  // all_capturable asks all of them.
  virtual bool capturable() const { return true; }
  bool all_capturable();

  void zero_grad();
  std::string summary();  // one line per module with parameters: path, type, count

 protected:
  // Shows an intermediate tensor to whoever listens below this module's path; nothing when nobody
  // does.
  void probe(std::string_view name, const Tensor& value) const {
    if (listening()) [[unlikely]]
      notify(name, value);
  }
  // Whether somebody listens to probes: what is shown must then exist.
  static bool probed() { return listening(); }
  // A tensor that members() will list as a parameter.
  static Tensor parameter(const Tensor& initial);

 private:
  friend class ProbeScope;
  static bool listening();
  void notify(std::string_view name, const Tensor& value) const;
  bool training_ = true;
};

// While it lives, `listener` hears every probe of `root` and the modules below it, by dotted path
// ("blocks.3.attention.weights").
class ProbeScope {
 public:
  ProbeScope(Module& root, ProbeListener listener);
  ~ProbeScope();
  ProbeScope(const ProbeScope&) = delete;
  ProbeScope& operator=(const ProbeScope&) = delete;

 private:
  struct State;
  std::unique_ptr<State> state_;
  friend class Module;
};

// How many parameters were made by Module::parameter since the start; a test compares it with what
// a freshly built module lists, so that none is forgotten.
int64_t parameters_born();

}  // namespace tessera

// The listing of a module's members.
#define TESSERA_MEMBERS(...)                     \
  void members(::tessera::Members& m) override { \
    m.list(#__VA_ARGS__, __VA_ARGS__);           \
  }
