#include "tessera/models/run_folder.h"

#include <algorithm>
#include <charconv>

#include "tessera/config/fields.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/safetensors.h"

namespace tessera {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kPrefix = "step-";

std::optional<int64_t> step_of(const fs::path& folder) {
  const std::string name = folder.filename().string();
  if (!name.starts_with(kPrefix)) return std::nullopt;
  int64_t step = 0;
  const char* end = name.data() + name.size();
  const auto [stop, error] = std::from_chars(name.data() + kPrefix.size(), end, step);
  if (error != std::errc() || stop != end || step < 0) return std::nullopt;
  return step;
}

struct ModelChoice {
  Choice<Model> model;
  TESSERA_FIELDS(f)
  { f("model", model, "the model of the run"); }
};

}  // namespace

Json RunCard::make(const fs::path& base, const Dataset& dataset) {
  return make(base, data_state(dataset));
}

Json RunCard::make(const fs::path& base, const Json& data_state) {
  return {{"base", fs::absolute(base).lexically_normal().string()}, {"data", data_state}};
}

RunFolder::RunFolder(fs::path path) : path_(std::move(path)) {
  check(fs::is_directory(path_), "{}: no such run folder", path_.string());
  check(fs::exists(path_ / "config.json"), "{}: not a run folder (it has no config.json)",
        path_.string());
}

Json RunFolder::config() const {
  return read_json(path_ / "config.json");
}

RunCard RunFolder::card() const {
  const fs::path file = path_ / "run.json";
  const Json json = read_json(file);
  check(json.is_object() && json.contains("base") && json["base"].is_string() &&
            json.contains("data"),
        "{}: wants \"base\" and \"data\"", file.string());
  try {
    return {json["base"].get<std::string>(), restore_data_state(json["data"])};
  } catch (const Error& error) {
    fail("{}: {}", file.string(), error.what());
  }
}

std::vector<int64_t> RunFolder::steps() const {
  return checkpoint_steps(path_);
}

int64_t RunFolder::latest_step() const {
  const std::vector<int64_t> all = steps();
  check(!all.empty(), "{}: no checkpoint yet; train the run first", path_.string());
  return all.back();
}

std::unique_ptr<Model> RunFolder::load_model(std::optional<int64_t> step, Device device) const {
  const fs::path folder = checkpoint_folder(path_, step.value_or(latest_step()));
  check(fs::exists(folder), "{}: no such checkpoint", folder.string());
  const Json all = config();
  Json only;
  if (all.is_object() && all.contains("model")) only["model"] = all["model"];
  const auto choice = tessera::from_json<ModelChoice>(only);
  std::unique_ptr<Model> model = choice.model.build(card().data.info);
  try {
    model->load_state(trained_weights(folder));
  } catch (const Error& error) {
    fail("{}: {}", folder.string(), error.what());
  }
  model->to(device);
  model->eval();
  return model;
}

fs::path checkpoint_folder(const fs::path& run, int64_t step) {
  return run / "checkpoints" / fmt::format("{}{}", kPrefix, step);
}

std::vector<int64_t> checkpoint_steps(const fs::path& run) {
  std::vector<int64_t> steps;
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(run / "checkpoints", none)) {
    if (const auto step = step_of(entry.path())) steps.push_back(*step);
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

NamedTensors trained_weights(const fs::path& checkpoint) {
  NamedTensors state = read_tensors(checkpoint / "model.safetensors");
  if (!fs::exists(checkpoint / "ema.safetensors")) return state;
  for (auto& [name, average] : read_tensors(checkpoint / "ema.safetensors")) {
    for (auto& [own_name, tensor] : state) {
      if (own_name == name) tensor = average;
    }
  }
  return state;
}

NamedTensors read_tensors(const fs::path& file) {
  const SafetensorsFile opened = SafetensorsFile::open(file);
  NamedTensors tensors;
  for (const std::string& name : opened.names()) {
    tensors.emplace_back(name, kernels::clone(opened.get(name)));
  }
  return tensors;
}

}  // namespace tessera
