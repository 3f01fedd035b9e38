// Fields: the listing of a config struct, from which reading, writing, help and schema follow.
//
//   struct AdamWConfig {
//     double lr = 1e-3;
//     std::optional<int64_t> warmup;
//     TESSERA_FIELDS(f) {
//       f("lr", lr, "learning rate").above(0);
//       f("warmup", warmup, "steps of linear warm-up").min(1);
//     }
//     void validate(const std::string& path) const;  // optional: checks across fields
//   };
//
// A member is a bool, int64_t, double, std::string, Json, a struct with its own listing, a Choice
// (config/registry.h), or a std::optional, std::vector or std::map<std::string, …> of one.
#pragma once

#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tessera/config/error.h"
#include "tessera/config/slot.h"

#define TESSERA_FIELDS(f) void fields(::tessera::Fields& f)

namespace tessera {

// What a value must satisfy; in a list or a map, bounds and one_of hold for each element.
struct Checks {
  std::optional<double> min, max, above, below;
  std::vector<std::string> one_of;  // as JSON texts
  std::optional<int64_t> size;

  void apply(const Json& value, const std::string& path) const;  // throws ConfigError
  void add_to_schema(Json& schema) const;
  std::string text() const;  // "≥ 0, < 1"
};

struct Field {
  std::string name;
  std::string doc;
  std::unique_ptr<Slot> slot;
  Checks checks;

  Field& min(double value);
  Field& max(double value);
  Field& above(double value);  // strictly
  Field& below(double value);  // strictly
  Field& one_of(std::initializer_list<std::string_view> values);
  Field& one_of(std::initializer_list<int64_t> values);
  Field& one_of(const std::vector<std::string>& values);  // names known when the program starts
  Field& size(int64_t count);                             // of a list
};

class Fields {
 public:
  template <class T>
  Field& operator()(std::string name, T& value, std::string doc) {
    static_assert(
        requires { make_slot(value); },
        "a config member is a bool, int64_t, double, std::string, Json, config struct, "
        "Choice, or an optional, vector or map<string, …> of one");
    return add({std::move(name), std::move(doc), make_slot(value), {}});
  }
  std::vector<Field>& list() { return list_; }
  std::vector<std::string> names() const;

 private:
  Field& add(Field field);
  std::vector<Field> list_;
};

// The steps that from_json and describe share for all types.
void read_slot(Slot& slot, const Json& json, const std::string& path);
std::string describe_slot(Slot& slot, const std::string& title);
Json schema_slot(Slot& slot);

// The config that `json` states: members without a key keep their defaults. Throws ConfigError for
// an unknown key, a value of another type or out of its bounds; messages begin with the key's path
// below `path`. C is any member type of a config.
template <class C>
C from_json(const Json& json, const std::string& path = "") {
  C config{};
  read_slot(*make_slot(config), json, path);
  return config;
}

// Every field with its value, in the listed order; from_json gives the same config back.
// (The second parameter lets headers name these without the whole of Json.)
template <class C, class J = Json>
J to_json(const C& config) {
  return make_slot(const_cast<C&>(config))->write();  // writing changes nothing
}

// A table of the fields: name, type, default, checks, documentation.
template <class C>
std::string describe(const std::string& title = "") {
  C config{};
  return describe_slot(*make_slot(config), title);
}

// JSON Schema (draft 2020-12) of the config.
template <class C, class J = Json>
J schema() {
  C config{};
  return schema_slot(*make_slot(config));
}

}  // namespace tessera
