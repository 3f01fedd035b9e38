#include "tessera/config/slot.h"

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <utility>

#include "tessera/config/fields.h"
#include "tessera/config/json.h"
#include "tessera/config/nearest.h"

namespace tessera {
namespace {

constexpr double kTwoTo63 = 9223372036854775808.0;

[[noreturn]] void expected(const char* what, const Json& json, const std::string& path) {
  config_fail(path, "expected {}, got {}", what, preview(json));
}

void read_value(bool& value, const Json& json, const std::string& path) {
  if (!json.is_boolean()) expected("true or false", json, path);
  value = json.get<bool>();
}

// 1000.0 and 1e3 are integers; an integer literal beyond 64 bits reached us rounded, as a double.
void read_value(int64_t& value, const Json& json, const std::string& path) {
  if (json.is_number_unsigned() && json.get<uint64_t>() > uint64_t{INT64_MAX}) {
    expected("an integer of 64 bits", json, path);
  }
  if (json.is_number_integer()) {
    value = json.get<int64_t>();
    return;
  }
  if (!json.is_number_float()) expected("an integer", json, path);
  const double number = json.get<double>();
  if (!(number > -kTwoTo63 && number < kTwoTo63)) expected("an integer of 64 bits", json, path);
  if (number != std::floor(number)) expected("an integer", json, path);
  value = static_cast<int64_t>(number);
}

void read_value(double& value, const Json& json, const std::string& path) {
  if (!json.is_number()) expected("a number", json, path);
  value = json.get<double>();
  if (!std::isfinite(value)) expected("a finite number", json, path);
}

void read_value(std::string& value, const Json& json, const std::string& path) {
  if (!json.is_string()) expected("a string", json, path);
  value = json.get<std::string>();
}

void read_value(Json& value, const Json& json, const std::string&) {
  value = json;
}

// The "type" of JSON Schema; Json itself has none.
constexpr const char* type_name(const bool&) {
  return "boolean";
}
constexpr const char* type_name(const int64_t&) {
  return "integer";
}
constexpr const char* type_name(const double&) {
  return "number";
}
constexpr const char* type_name(const std::string&) {
  return "string";
}
constexpr const char* type_name(const Json&) {
  return "any JSON";
}

template <class T>
class ScalarSlot final : public Slot {
 public:
  explicit ScalarSlot(T& value) : value_(value) {}
  void read(const Json& json, const std::string& path) override { read_value(value_, json, path); }
  Json write() override { return value_; }
  std::string type() override { return type_name(value_); }
  Json schema(Json&) override {
    if constexpr (std::is_same_v<T, Json>) return Json::object();
    return {{"type", type_name(value_)}};
  }

 private:
  T& value_;
};

thread_local int depth = 0;

}  // namespace

Descent::Descent(const std::string& path) {
  if (depth >= kMaxJsonDepth) {
    config_fail(path.substr(0, 60), "nested deeper than {}; does a default choose itself?",
                kMaxJsonDepth);
  }
  ++depth;
}

Descent::~Descent() {
  --depth;
}

std::unique_ptr<Slot> make_slot(bool& value) {
  return std::make_unique<ScalarSlot<bool>>(value);
}
std::unique_ptr<Slot> make_slot(int64_t& value) {
  return std::make_unique<ScalarSlot<int64_t>>(value);
}
std::unique_ptr<Slot> make_slot(double& value) {
  return std::make_unique<ScalarSlot<double>>(value);
}
std::unique_ptr<Slot> make_slot(std::string& value) {
  return std::make_unique<ScalarSlot<std::string>>(value);
}
std::unique_ptr<Slot> make_slot(Json& value) {
  return std::make_unique<ScalarSlot<Json>>(value);
}

void StructSlot::read_fields(const Json& json, const std::string& path,
                             std::string_view skipped_key) {
  const Descent descent(path);
  if (!json.is_object()) expected("an object", json, path);
  Fields fields;
  list(fields);
  const std::vector<std::string> names = fields.names();
  if (std::find(names.begin(), names.end(), skipped_key) != names.end()) {
    config_fail(path, "the field \"{}\" has a name that is taken", skipped_key);
  }
  for (const auto& [key, value] : json.items()) {
    if (key == skipped_key || std::find(names.begin(), names.end(), key) != names.end()) continue;
    std::string hint = did_you_mean(key, names);
    if (hint.empty()) hint = fmt::format("; known: {}", fmt::join(names, ", "));
    config_fail(join_path(path, key), "unknown key{}", hint);
  }
  for (Field& field : fields.list()) {
    const std::string where = join_path(path, field.name);
    const auto found = json.find(field.name);
    if (found == json.end()) {
      field.slot->read_absent(where);
    } else {
      field.slot->read(*found, where);
    }
    field.checks.apply(field.slot->write(), where);
  }
  validate(path);
}

void StructSlot::read_absent(const std::string& path) {
  read_fields(Json::object(), path, "");
}

Json StructSlot::write() {
  const Descent descent("");
  Fields fields;
  list(fields);
  Json json = Json::object();
  for (Field& field : fields.list()) json[field.name] = field.slot->write();
  return json;
}

bool StructSlot::required() {
  Fields fields;
  list(fields);
  for (Field& field : fields.list()) {
    if (field.slot->required()) return true;
  }
  return false;
}

bool StructSlot::nested(std::string&, Fields& fields) {
  list(fields);
  return true;
}

void OptionalSlot::read(const Json& json, const std::string& path) {
  if (json.is_null()) {
    reset();
  } else {
    value()->read(json, path);
  }
}

void OptionalSlot::read_absent(const std::string& path) {
  if (has_value()) value()->read_absent(path);
}

Json OptionalSlot::write() {
  return has_value() ? value()->write() : Json(nullptr);
}

bool OptionalSlot::nested(std::string& path, Fields& fields) {
  return prototype()->nested(path, fields);
}

void ListSlot::read(const Json& json, const std::string& path) {
  if (!json.is_array()) expected("a list", json, path);
  assign(json.size());
  for (size_t i = 0; i < json.size(); ++i) at(i)->read(json[i], join_path(path, std::to_string(i)));
}

void ListSlot::read_absent(const std::string& path) {
  for (size_t i = 0; i < size(); ++i) at(i)->read_absent(join_path(path, std::to_string(i)));
}

Json ListSlot::write() {
  Json json = Json::array();
  for (size_t i = 0; i < size(); ++i) json.push_back(at(i)->write());
  return json;
}

bool ListSlot::nested(std::string& path, Fields& fields) {
  path += ".N";
  return prototype()->nested(path, fields);
}

void MapSlot::read(const Json& json, const std::string& path) {
  if (!json.is_object()) expected("an object", json, path);
  clear();
  for (const auto& [key, value] : json.items()) at(key)->read(value, join_path(path, key));
}

void MapSlot::read_absent(const std::string& path) {
  for (const std::string& key : keys()) at(key)->read_absent(join_path(path, key));
}

Json MapSlot::write() {
  Json json = Json::object();
  for (const std::string& key : keys()) json[key] = at(key)->write();
  return json;
}

bool MapSlot::nested(std::string& path, Fields& fields) {
  path += ".KEY";
  return prototype()->nested(path, fields);
}

}  // namespace tessera
