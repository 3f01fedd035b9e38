#include "tessera/config/fields.h"

#include <algorithm>

#include "tessera/config/json.h"
#include "tessera/config/nearest.h"

namespace tessera {
namespace {

// The strings of one_of without their quotes, as candidates for "did you mean".
std::vector<std::string> plain(const std::vector<std::string>& texts) {
  std::vector<std::string> names;
  for (const std::string& text : texts) {
    const Json json = Json::parse(text);
    names.push_back(json.is_string() ? json.get<std::string>() : text);
  }
  return names;
}

void check_scalar(const Checks& checks, const Json& value, const std::string& path) {
  auto refuse = [&](const char* why, double bound) {
    config_fail(path, "{} {} {}", preview(value), why, bound);
  };
  if (value.is_number()) {
    const double number = value.get<double>();
    if (checks.min && number < *checks.min) refuse("is below the minimum", *checks.min);
    if (checks.max && number > *checks.max) refuse("is above the maximum", *checks.max);
    if (checks.above && number <= *checks.above) refuse("is not above", *checks.above);
    if (checks.below && number >= *checks.below) refuse("is not below", *checks.below);
  }
  const auto& allowed = checks.one_of;
  if (allowed.empty() || std::find(allowed.begin(), allowed.end(), value.dump()) != allowed.end()) {
    return;
  }
  const std::string hint =
      value.is_string() ? did_you_mean(value.get<std::string>(), plain(allowed)) : "";
  config_fail(path, "{} is not one of {}{}", preview(value), fmt::join(allowed, ", "), hint);
}

void check_depth(const Json& root, const std::string& path) {
  std::vector<std::pair<const Json*, int>> open = {{&root, 0}};
  while (!open.empty()) {
    const auto [json, depth] = open.back();
    open.pop_back();
    if (!json->is_structured()) continue;
    if (depth > 2 * kMaxJsonDepth) config_fail(path, "nested deeper than {}", 2 * kMaxJsonDepth);
    for (const Json& child : *json) open.emplace_back(&child, depth + 1);
  }
}

}  // namespace

void Checks::apply(const Json& value, const std::string& path) const {
  if (size && value.is_array() && value.size() != static_cast<size_t>(*size)) {
    config_fail(path, "{} has {} elements instead of {}", preview(value), value.size(), *size);
  }
  if (value.is_null()) return;
  if (!value.is_structured()) return check_scalar(*this, value, path);
  for (const auto& [key, element] : value.items()) {
    if (!element.is_structured() && !element.is_null()) {
      check_scalar(*this, element, join_path(path, key));
    }
  }
}

Field& Field::min(double value) {
  checks.min = value;
  return *this;
}

Field& Field::max(double value) {
  checks.max = value;
  return *this;
}

Field& Field::above(double value) {
  checks.above = value;
  return *this;
}

Field& Field::below(double value) {
  checks.below = value;
  return *this;
}

Field& Field::one_of(std::initializer_list<std::string_view> values) {
  for (std::string_view value : values) checks.one_of.push_back(Json(value).dump());
  return *this;
}

Field& Field::one_of(const std::vector<std::string>& values) {
  for (const std::string& value : values) checks.one_of.push_back(Json(value).dump());
  return *this;
}

Field& Field::one_of(std::initializer_list<int64_t> values) {
  for (int64_t value : values) checks.one_of.push_back(std::to_string(value));
  return *this;
}

Field& Field::size(int64_t count) {
  checks.size = count;
  return *this;
}

std::vector<std::string> Fields::names() const {
  std::vector<std::string> names;
  for (const Field& field : list_) names.push_back(field.name);
  return names;
}

Field& Fields::add(Field field) {
  for (const Field& other : list_) {
    if (other.name == field.name) config_fail(field.name, "this field is listed twice");
  }
  return list_.emplace_back(std::move(field));
}

void read_slot(Slot& slot, const Json& json, const std::string& path) {
  check_depth(json, path);
  slot.read(json, path);
}

}  // namespace tessera
