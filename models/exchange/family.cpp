#include "tessera/models/exchange/family.h"

#include <cmath>

#include "tessera/config/error.h"

namespace tessera {
namespace {

std::vector<Family>& families() {
  static std::vector<Family> list;
  return list;
}

std::vector<std::string> steps_of(std::string_view path) {
  std::vector<std::string> steps;
  for (size_t at = 0; at <= path.size();) {
    const size_t end = std::min(path.find('.', at), path.size());
    steps.emplace_back(path.substr(at, end - at));
    at = end + 1;
  }
  return steps;
}

Json& place(Json& json, std::string_view path) {
  Json* at = &json;
  for (const std::string& step : steps_of(path)) at = &(*at)[step];
  return *at;
}

// Null where there is none.
Json value_at(const Json& json, std::string_view path) {
  const Json* at = &json;
  for (const std::string& step : steps_of(path)) {
    if (!at->is_object() || !at->contains(step)) return nullptr;
    at = &at->at(step);
  }
  return *at;
}

Json key_of(const Json& json, const std::string& key) {
  return json.contains(key) ? json.at(key) : Json(nullptr);
}

Json to_our_value(const SettingRule& rule, const Json& value, const std::string& where) {
  if (rule.names == nullptr) return value;
  std::vector<std::string> known;
  for (const auto& [ours, theirs] : *rule.names) {
    if (value == theirs) return ours;
    known.push_back(theirs);
  }
  fail("{}: \"{}\" is {}; known are {}", where, rule.theirs, preview(value),
       fmt::join(known, ", "));
}

Json to_their_value(const SettingRule& rule, const Json& value) {
  if (rule.names == nullptr) return value;
  for (const auto& [ours, theirs] : *rule.names) {
    if (value == ours) return theirs;
  }
  return value;
}

// A spec with every default that follows from other settings written out, and without what only
// training reads.
Json resolved(const ModelSpec& spec) {
  Json json = to_json(spec);
  Json& m = json["model"];
  const Json bias = m.value("bias", true);
  const auto fill_in = [](Json& at, const char* key, const Json& value) {
    if (at.contains(key) && at[key].is_null()) at[key] = value;
  };
  const int64_t width = m.at("width").get<int64_t>(), heads = m.at("heads").get<int64_t>();
  fill_in(m, "head_dim", width / heads);
  const auto complete = [&](Json& attention) {
    fill_in(attention, "kv_heads", heads);
    fill_in(attention, "bias", bias);
    fill_in(attention, "qkv_bias", attention.value("bias", bias));
    for (const char* key : {"locality_strength", "local_init", "gate_init"}) attention.erase(key);
  };
  complete(m["attention"]);
  for (Json& layer : m["layers"]) {
    for (Json& at : layer["at"]) at = at.get<int64_t>() + (at < 0 ? m["depth"].get<int64_t>() : 0);
    if (Json& attention = layer["attention"]; attention.is_object()) complete(attention);
  }
  if (Json& f = m["feed_forward"]; f.contains("hidden")) {
    const double hidden = f.at("ratio").get<double>() * static_cast<double>(width);
    const bool glu = f.at("type") == "glu";
    fill_in(f, "hidden",
            glu ? (std::llround(std::ceil(hidden)) + 7) / 8 * 8 : std::llround(hidden));
    f.erase("ratio");
  }
  for (const char* key : {"dropout", "drop_path", "init_std", "checkpoint"}) m.erase(key);
  if (m.contains("positions")) {
    m["positions"].erase("init_std");
    // Rows are put in the order of half-split pairs when they are written.
    if (m["positions"].contains("interleaved")) m["positions"]["interleaved"] = false;
  }
  return json;
}

// "model.norm is "rms", not "layer"" of what differs first; empty when nothing does.
std::string difference(const Json& wanted, const Json& got) {
  const Json a = wanted.flatten(), b = got.flatten();
  for (const auto& [pointer, value] : a.items()) {
    const Json other = key_of(b, pointer);
    if (value == other) continue;
    std::string path = pointer.substr(1);
    for (char& c : path) {
      if (c == '/') c = '.';
    }
    return fmt::format("{} is {}, not {}", path, preview(value), preview(other));
  }
  return {};
}

Json config_of(const Family& family, const ModelSpec& spec) {
  const Json ours = resolved(spec);
  Json theirs = {{"architectures", {family.architecture}}, {"model_type", family.name}};
  for (const SettingRule& rule : family.settings) {
    theirs[rule.theirs] = to_their_value(rule, value_at(ours, rule.ours));
  }
  theirs.update(family.fixed);
  theirs["torch_dtype"] = "float32";
  if (family.write != nullptr) family.write(ours, theirs);
  return theirs;
}

// Why a family cannot hold this model; empty when it can.
std::string obstacle(const Family& family, const ModelSpec& spec, const Json& config) {
  const Json wanted = resolved(spec);
  if (wanted.at("model").at("type") != family.base.at("model").at("type")) {
    return fmt::format("it is no {}", family.base.at("model").at("type").get<std::string>());
  }
  try {
    return difference(wanted, resolved(read_spec(family, config, "config.json")));
  } catch (const std::exception& error) {
    return error.what();
  }
}

}  // namespace

RegisterFamily::RegisterFamily(Family family) {
  families().push_back(std::move(family));
}

const ValueNames& activation_value_names() {
  static const ValueNames names = {{"gelu_tanh", "gelu_new"},  {"gelu_tanh", "gelu_pytorch_tanh"},
                                   {"gelu_tanh", "gelu_fast"}, {"gelu", "gelu"},
                                   {"relu", "relu"},           {"silu", "silu"},
                                   {"silu", "swish"},          {"quick_gelu", "quick_gelu"},
                                   {"tanh", "tanh"},           {"mish", "mish"}};
  return names;
}

const Family& find_family(const Json& config, const std::string& where) {
  Json type = config.is_object() ? key_of(config, "model_type") : Json(nullptr);
  if (config.is_object() && type.is_null() && config.value("architecture", Json()).is_string()) {
    const auto architecture = config.at("architecture").get<std::string>();  // timm's
    type = architecture.substr(0, architecture.find('_'));
  }
  std::vector<std::string> known;
  for (const Family& family : families()) {
    if (type == family.name) return family;
    known.push_back(family.name);
  }
  fail("{}: \"model_type\" is {}; known are {}", where, preview(type), fmt::join(known, ", "));
}

ModelSpec read_spec(const Family& family, const Json& config, const std::string& where) {
  using Absent = SettingRule::Absent;
  for (const auto& [key, only] : family.fixed.items()) {
    const Json value = key_of(config, key);
    check(value.is_null() || value == only, "{}: \"{}\" is {}; only {} can be run", where, key,
          preview(value), preview(only));
  }
  Json ours = family.base;
  for (const SettingRule& rule : family.settings) {
    Json value = key_of(config, rule.theirs);
    check(!value.is_null() || rule.absent != Absent::is_error, "{}: \"{}\" is missing", where,
          rule.theirs);
    if (value.is_null()) value = rule.fallback;
    if (!value.is_null()) place(ours, rule.ours) = to_our_value(rule, value, where);
  }
  try {
    if (family.read != nullptr) family.read(config, ours);
    return from_json<ModelSpec>(ours);
  } catch (const Json::exception& error) {
    fail("{}: {}", where, error.what());
  } catch (const ConfigError& error) {
    fail("{}: {}", where, error.what());
  } catch (const Error& error) {
    fail("{}: {}", where, error.what());
  }
}

std::pair<const Family*, Json> write_spec(const ModelSpec& spec) {
  std::string reasons;
  const std::string type = to_json(spec).at("model").at("type").get<std::string>();
  for (const Family& family : families()) {
    if (family.base.at("model").at("type") != type) continue;
    Json config = config_of(family, spec);
    const std::string reason = obstacle(family, spec, config);
    if (reason.empty()) return {&family, std::move(config)};
    reasons += fmt::format("{}{}: {}", reasons.empty() ? "" : "; ", family.name, reason);
  }
  check(!reasons.empty(), "export: no family of checkpoints holds a model of type \"{}\"", type);
  fail("export: no family holds this model ({})", reasons);
}

JoinedRows joined_rows(const ModelSpec& spec) {
  const Json m = resolved(spec).at("model");
  const int64_t heads = m.at("heads").get<int64_t>();
  const int64_t head_dim = m.value("head_dim", m.at("width").get<int64_t>() / heads);
  const int64_t kv = m.at("attention").value("kv_heads", heads) * head_dim;
  return {heads * head_dim, kv, kv};
}

}  // namespace tessera
