// Slot: a config value of any supported type, seen through one interface.
//
// A Slot refers to a member of a config struct and can read it from JSON, write it, and tell its
// type. Only the thin templates at the end depend on the member's type; all JSON work is compiled
// once, in slot.cpp.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tessera {

using Json = nlohmann::ordered_json;  // complete in config/json.h
class ChoiceBase;
class Fields;

class Slot {
 public:
  virtual ~Slot() = default;
  virtual void read(const Json& json, const std::string& path) = 0;  // throws ConfigError
  virtual void read_absent(const std::string&) {}  // the key was not given: checks the default
  virtual Json write() = 0;
  virtual std::string type() = 0;                               // "integer", "list of number", …
  virtual Json schema(Json& defs) = 0;                          // may add to the "$defs"
  virtual bool required() { return false; }                     // has no default
  virtual bool nested(std::string&, Fields&) { return false; }  // lists the fields of a struct
};

template <class C>
concept ConfigStruct = requires(C& config, Fields& fields) {
  config.fields(fields);
};

// A struct: an object whose keys are its fields.
class StructSlot : public Slot {
 public:
  void read(const Json& json, const std::string& path) override { read_fields(json, path, ""); }
  void read_absent(const std::string& path) override;
  void read_fields(const Json& json, const std::string& path, std::string_view skipped_key);
  Json write() override;
  std::string type() override { return "object"; }
  Json schema(Json& defs) override;
  bool required() override;
  bool nested(std::string& path, Fields& fields) override;

 private:
  virtual void list(Fields& fields) = 0;
  virtual void validate(const std::string& path) = 0;
};

class OptionalSlot : public Slot {
 public:
  void read(const Json& json, const std::string& path) override;
  void read_absent(const std::string& path) override;
  Json write() override;
  std::string type() override { return prototype()->type() + " or null"; }
  Json schema(Json& defs) override;
  bool nested(std::string& path, Fields& fields) override;

 private:
  virtual bool has_value() = 0;
  virtual void reset() = 0;
  virtual std::unique_ptr<Slot> value() = 0;  // made if there is none
  virtual std::unique_ptr<Slot> prototype() = 0;
};

class ListSlot : public Slot {
 public:
  void read(const Json& json, const std::string& path) override;
  void read_absent(const std::string& path) override;
  Json write() override;
  std::string type() override { return "list of " + prototype()->type(); }
  Json schema(Json& defs) override;
  bool nested(std::string& path, Fields& fields) override;

 private:
  virtual size_t size() = 0;
  virtual void assign(size_t size) = 0;  // that many default elements
  virtual std::unique_ptr<Slot> at(size_t i) = 0;
  virtual std::unique_ptr<Slot> prototype() = 0;
};

class MapSlot : public Slot {
 public:
  void read(const Json& json, const std::string& path) override;
  void read_absent(const std::string& path) override;
  Json write() override;
  std::string type() override { return "map to " + prototype()->type(); }
  Json schema(Json& defs) override;
  bool nested(std::string& path, Fields& fields) override;

 private:
  virtual std::vector<std::string> keys() = 0;
  virtual void clear() = 0;
  virtual std::unique_ptr<Slot> at(const std::string& key) = 0;  // made if there is none
  virtual std::unique_ptr<Slot> prototype() = 0;
};

// The slot of a member; these are the types that a config may hold.
std::unique_ptr<Slot> make_slot(bool& value);
std::unique_ptr<Slot> make_slot(int64_t& value);
std::unique_ptr<Slot> make_slot(double& value);
std::unique_ptr<Slot> make_slot(std::string& value);
std::unique_ptr<Slot> make_slot(Json& value);
std::unique_ptr<Slot> make_slot(ChoiceBase& value);
template <ConfigStruct C>
std::unique_ptr<StructSlot> make_slot(C& value);
template <class T>
std::unique_ptr<Slot> make_slot(std::optional<T>& value);
template <class T>
std::unique_ptr<Slot> make_slot(std::vector<T>& value);
template <class T>
std::unique_ptr<Slot> make_slot(std::map<std::string, T>& value);

template <class C>
class StructSlotOf final : public StructSlot {
 public:
  explicit StructSlotOf(C& value) : value_(value) {}

 private:
  void list(Fields& fields) override { value_.fields(fields); }
  void validate(const std::string& path) override {
    if constexpr (requires { value_.validate(path); }) value_.validate(path);
  }
  C& value_;
};

template <class T>
class OptionalSlotOf final : public OptionalSlot {
 public:
  explicit OptionalSlotOf(std::optional<T>& value) : value_(value) {}

 private:
  bool has_value() override { return value_.has_value(); }
  void reset() override { value_.reset(); }
  std::unique_ptr<Slot> value() override { return make_slot(value_ ? *value_ : value_.emplace()); }
  std::unique_ptr<Slot> prototype() override { return make_slot(prototype_); }
  std::optional<T>& value_;
  T prototype_{};
};

template <class T>
class ListSlotOf final : public ListSlot {
 public:
  explicit ListSlotOf(std::vector<T>& value) : value_(value) {}

 private:
  size_t size() override { return value_.size(); }
  void assign(size_t size) override { value_.assign(size, T{}); }
  std::unique_ptr<Slot> at(size_t i) override { return make_slot(value_[i]); }
  std::unique_ptr<Slot> prototype() override { return make_slot(prototype_); }
  std::vector<T>& value_;
  T prototype_{};
};

template <class T>
class MapSlotOf final : public MapSlot {
 public:
  explicit MapSlotOf(std::map<std::string, T>& value) : value_(value) {}

 private:
  std::vector<std::string> keys() override {
    std::vector<std::string> keys;
    for (const auto& [key, value] : value_) keys.push_back(key);
    return keys;
  }
  void clear() override { value_.clear(); }
  std::unique_ptr<Slot> at(const std::string& key) override { return make_slot(value_[key]); }
  std::unique_ptr<Slot> prototype() override { return make_slot(prototype_); }
  std::map<std::string, T>& value_;
  T prototype_{};
};

template <ConfigStruct C>
std::unique_ptr<StructSlot> make_slot(C& value) {
  return std::make_unique<StructSlotOf<C>>(value);
}
template <class T>
std::unique_ptr<Slot> make_slot(std::optional<T>& value) {
  return std::make_unique<OptionalSlotOf<T>>(value);
}
template <class T>
std::unique_ptr<Slot> make_slot(std::vector<T>& value) {
  return std::make_unique<ListSlotOf<T>>(value);
}
template <class T>
std::unique_ptr<Slot> make_slot(std::map<std::string, T>& value) {
  return std::make_unique<MapSlotOf<T>>(value);
}

// One level of nesting on this thread. Throws ConfigError at the 101st: JSON is limited when it is
// parsed, but a default may choose itself without end.
class Descent {
 public:
  explicit Descent(const std::string& path);
  ~Descent();
  Descent(const Descent&) = delete;
  Descent& operator=(const Descent&) = delete;
};

}  // namespace tessera
