// Registries by interface, and Choice: a config member that names a registered class.
//
// An interface names its kind and how it is built; a class registers itself in its own .cpp file:
//
//   struct Optimizer {
//     static constexpr const char* kKind = "optimizer";
//     using Build = std::unique_ptr<Optimizer>(Parameters&, int);
//     …
//   };
//   struct AdamW : Optimizer {
//     struct Config { …; TESSERA_FIELDS(f) { … } };
//     AdamW(const Config&, Parameters&, int);
//     static void capabilities(Capabilities& c) { c.unsupported("sparse", "reason"); }  // optional
//   };
//   TESSERA_REGISTER(Optimizer, AdamW, "adamw", "Adam with decoupled weight decay",
//                    "Loshchilov & Hutter 2019");
//
// A config then says `Choice<Optimizer> optimizer{"adamw"};` and its JSON
// `{"type": "adamw", "lr": 1e-3}` or just `"adamw"`.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tessera/config/fields.h"

namespace tessera {

// What a registered class cannot do, and why.
struct Unsupported {
  std::string capability;
  std::string reason;
};

class Capabilities {
 public:
  void unsupported(std::string capability, std::string reason) {
    list_.push_back({std::move(capability), std::move(reason)});
  }
  const std::vector<Unsupported>& list() const { return list_; }

 private:
  std::vector<Unsupported> list_;
};

// A config of some registered class.
class ConfigBox {
 public:
  virtual ~ConfigBox() = default;
  virtual std::unique_ptr<ConfigBox> clone() const = 0;
  virtual std::unique_ptr<StructSlot> slot() = 0;
};

template <class C>
struct ConfigBoxOf final : ConfigBox {
  C value{};
  std::unique_ptr<ConfigBox> clone() const override { return std::make_unique<ConfigBoxOf>(*this); }
  std::unique_ptr<StructSlot> slot() override { return make_slot(value); }
};

// One registered class.
struct Entry {
  std::string kind, name, summary, source;
  std::vector<Unsupported> capabilities;
  std::string registered_at;  // "AdamW in train/adamw.cpp"
  std::unique_ptr<ConfigBox> (*make_config)() = nullptr;
  void (*builder)() = nullptr;  // cast back by BuilderOf

  std::optional<std::string> unsupported(std::string_view capability) const;  // the reason
  std::string describe() const;  // summary, source, table of options, what is unsupported
  Json schema() const;           // of the config, "type" included
  Json default_json() const;     // {"type": name, …}; null where a choice has no default
};

struct RegistryInfo {
  std::string kind;
  std::vector<Entry> entries;  // by name
};

// Everything registered, kinds and names in alphabetical order.
std::vector<RegistryInfo> all_registries();

// The entries called `name`, of whatever kind.
std::vector<Entry> find_entries(std::string_view name);

std::vector<std::string> registered_names(std::string_view kind);

// Throws ConfigError `KIND: unknown KIND "NAME"; did you mean …`; `path` begins the message.
const Entry& find_entry(std::string_view kind, std::string_view name, const std::string& path);

// Throws ConfigError, which names both, when the kind has the name already.
void add_entry(Entry entry);

// Turns an interface's signature R(Args…) into the function that builds a Class from its config.
template <class Signature>
struct BuilderOf;

template <class R, class... Args>
struct BuilderOf<R(Args...)> {
  using Function = R (*)(const ConfigBox&, Args...);
  template <class Class>
  static R build(const ConfigBox& box, Args... args) {
    const auto& config = static_cast<const ConfigBoxOf<typename Class::Config>&>(box).value;
    return R(new Class(config, std::forward<Args>(args)...));
  }
};

template <class Interface, class Class>
Entry make_entry(std::string name, std::string summary, std::string source) {
  Entry entry;
  entry.kind = Interface::kKind;
  entry.name = std::move(name);
  entry.summary = std::move(summary);
  entry.source = std::move(source);
  if constexpr (requires(Capabilities & c) { Class::capabilities(c); }) {
    Capabilities capabilities;
    Class::capabilities(capabilities);
    entry.capabilities = capabilities.list();
  }
  entry.make_config = []() -> std::unique_ptr<ConfigBox> {
    return std::make_unique<ConfigBoxOf<typename Class::Config>>();
  };
  typename BuilderOf<typename Interface::Build>::Function builder =
      &BuilderOf<typename Interface::Build>::template build<Class>;
  entry.builder = reinterpret_cast<void (*)()>(builder);
  return entry;
}

// Adds an entry while the program starts; a repeated name ends it with one line and exit code 2.
struct Registration {
  Registration(Entry entry, const char* class_name, const char* file);
};

// The part of Choice that does not depend on the interface.
class ChoiceBase {
 public:
  ChoiceBase(const char* kind, std::string type) : kind_(kind), type_(std::move(type)) {}
  ChoiceBase(const ChoiceBase& other);
  ChoiceBase& operator=(const ChoiceBase& other);
  ChoiceBase(ChoiceBase&&) = default;
  ChoiceBase& operator=(ChoiceBase&&) = default;

  const char* kind() const { return kind_; }
  const std::string& type() const { return type_; }  // "" when nothing is chosen
  const Entry& entry() const;                        // throws ConfigError for an unknown type
  const ConfigBox& box() const;
  ConfigBox& box();
  bool operator==(const ChoiceBase& other) const;  // same type and same config

 private:
  friend class ChoiceSlot;
  const char* kind_;
  std::string type_;
  std::unique_ptr<ConfigBox> box_;  // made when it is first changed; until then all defaults
};

// Throws ConfigError: the class chosen has another config than the one asked for.
[[noreturn]] void fail_config_type(const ChoiceBase& choice);

// The choice of a registered class of `Interface`, with its config. Copies are independent.
template <class Interface>
class Choice : public ChoiceBase {
 public:
  Choice() : ChoiceBase(Interface::kKind, "") {}  // nothing chosen: the key is required
  Choice(std::string type) : ChoiceBase(Interface::kKind, std::move(type)) {}
  Choice(const char* type) : ChoiceBase(Interface::kKind, type) {}

  template <class C>
  const C& config() const {
    const auto* box = dynamic_cast<const ConfigBoxOf<C>*>(&this->box());
    if (!box) fail_config_type(*this);
    return box->value;
  }
  template <class C>
  C& config() {
    auto* box = dynamic_cast<ConfigBoxOf<C>*>(&this->box());
    if (!box) fail_config_type(*this);
    return box->value;
  }

  // Builds the class chosen; `args` are those of Interface::Build.
  template <class... Args>
  auto build(Args&&... args) const {
    using Function = typename BuilderOf<typename Interface::Build>::Function;
    const auto builder = reinterpret_cast<Function>(entry().builder);
    return builder(box(), std::forward<Args>(args)...);
  }
};

}  // namespace tessera

#define TESSERA_CONCAT_(a, b) a##b
#define TESSERA_CONCAT(a, b) TESSERA_CONCAT_(a, b)
#define TESSERA_REGISTER(Interface, Class, name, summary, source)                          \
  static const ::tessera::Registration TESSERA_CONCAT(tessera_registration_, __COUNTER__)( \
      ::tessera::make_entry<Interface, Class>(name, summary, source), #Class, __FILE__)
