// Families of checkpoints in the format of the transformers library: a folder with config.json and
// safetensors files. A family is data: a table of tensors, a table of settings, and hooks for the
// settings that a row cannot express. It registers itself in its own file.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "tessera/config/json.h"
#include "tessera/models/exchange/tensor_map.h"
#include "tessera/models/model.h"

namespace tessera {

// A model with the sizes that its data would set.
struct ModelSpec {
  Choice<Model> model;
  DataInfo data;

  TESSERA_FIELDS(f)
  {
    f("model", model, "the model");
    f("data", data, "sizes and names");
  }
};

// Values that have another name there: ours, theirs. Of several for one of ours, the first is
// written.
using ValueNames = std::vector<std::pair<std::string, std::string>>;

struct SettingRule {
  enum class Absent { is_error, keeps_default, means };
  std::string ours;    // dotted path in a ModelSpec: "model.width", "data.context"
  std::string theirs;  // key of config.json
  Absent absent = Absent::is_error;
  Json fallback = nullptr;            // what their absent key means
  const ValueNames* names = nullptr;  // null: values are the same
};

struct Family {
  std::string name;          // "model_type" of config.json
  std::string architecture;  // "architectures" of what is written; empty: `write` names it
  TensorMap tensors;
  Json base;   // a ModelSpec before the settings
  Json fixed;  // keys of config.json with the only values that can be run; absent ones are fine
  std::vector<SettingRule> settings;
  // What rows cannot say. `ours` is a ModelSpec as JSON, complete when a config is written.
  void (*read)(const Json& theirs, Json& ours) = nullptr;
  void (*write)(const Json& ours, Json& theirs) = nullptr;
  // Puts the values of our tensors in the family's order before they are written.
  NamedTensors (*reorder)(const ModelSpec& spec, const NamedTensors& ours) = nullptr;
};

struct RegisterFamily {
  explicit RegisterFamily(Family family);
};

const ValueNames& activation_value_names();

// By "model_type", or by the beginning of timm's "architecture". Throws for one that no family has,
// listing those there are.
const Family& find_family(const Json& config, const std::string& where);

// Of a config.json, and back. `where` begins the errors, which name the key.
ModelSpec read_spec(const Family& family, const Json& config, const std::string& where);
// The family that holds such a model, with its config.json. Throws with the setting that none has.
std::pair<const Family*, Json> write_spec(const ModelSpec& spec);

// How the joined attention matrices of a model divide.
JoinedRows joined_rows(const ModelSpec& spec);

}  // namespace tessera
