#include <set>

#include "tessera/core/file.h"
#include "tessera/core/safetensors.h"
#include "tessera/models/exchange/checkpoint.h"
#include "tessera/models/exchange/preprocessor.h"

namespace tessera {
namespace fs = std::filesystem;
namespace {

constexpr const char* kOneFile = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";

void add_tensors(const fs::path& path, NamedTensors& tensors) {
  const SafetensorsFile file = SafetensorsFile::open(path);
  for (const std::string& name : file.names()) tensors.emplace_back(name, file.get(name));
}

// The files that an index names, each once; every tensor must be where the index says.
NamedTensors read_shards(const fs::path& folder) {
  const fs::path path = folder / kIndex;
  const Json index = read_json(path);
  check(index.is_object() && index.contains("weight_map") && index["weight_map"].is_object(),
        "{}: no \"weight_map\"", path.string());
  std::set<std::string> files;
  for (const auto& [name, file] : index["weight_map"].items()) {
    check(file.is_string() && file.get<std::string>().find('/') == std::string::npos,
          "{}: tensor \"{}\" is in {}; wants the name of a file beside it", path.string(), name,
          preview(file));
    files.insert(file.get<std::string>());
  }
  NamedTensors tensors;
  std::set<std::string> seen;
  for (const std::string& file : files) {
    NamedTensors part;
    add_tensors(folder / file, part);
    for (const auto& [name, tensor] : part) {
      check(seen.insert(name).second, "{}: tensor \"{}\" is in two files", path.string(), name);
      tensors.emplace_back(name, tensor);
    }
  }
  for (const auto& [name, file] : index["weight_map"].items()) {
    check(seen.contains(name), "{}: tensor \"{}\" is in none of the files", path.string(), name);
  }
  return tensors;
}

}  // namespace

ForeignModel read_hugging_face(const fs::path& folder) {
  const fs::path config_file = folder / "config.json";
  const Json config = read_json(config_file);
  const std::string name = config_file.string();
  const Family& family = find_family(config, name);
  ForeignModel result;
  result.spec = read_spec(family, config, config_file.string());
  NamedTensors theirs;
  if (fs::exists(folder / kIndex)) {
    theirs = read_shards(folder);
  } else {
    check(fs::exists(folder / kOneFile), "{}: holds no {}", folder.string(), kOneFile);
    add_tensors(folder / kOneFile, theirs);
  }
  try {
    const auto model = result.spec.model.build(result.spec.data);
    result.tensors = to_ours(family.tensors, joined_rows(result.spec), model->state(), theirs);
  } catch (const Error& error) {
    fail("{}: {}", folder.string(), error.what());
  }
  if (result.spec.data.classes > 0) result.transforms = read_preprocessor(folder, result.spec.data);
  return result;
}

void write_hugging_face(const fs::path& folder, const ModelSpec& spec, const NamedTensors& tensors,
                        const TransformList& transforms) {
  const auto [family, config] = write_spec(spec);
  const NamedTensors theirs = to_theirs(family->tensors, joined_rows(spec),
                                        family->reorder ? family->reorder(spec, tensors) : tensors);
  std::error_code error;
  fs::create_directories(folder, error);
  check(!error, "export: {} cannot be made: {}", folder.string(), error.message());
  write_safetensors((folder / kOneFile).string(), theirs, {{"format", "pt"}});
  write_file_atomic((folder / "config.json").string(), config.dump(2) + "\n");
  if (spec.data.classes > 0) write_preprocessor(folder, spec.data, transforms);
}

}  // namespace tessera
