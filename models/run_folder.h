// A run is a folder: the resolved config.json, run.json (what the data set: sizes, class names,
// tokenizer), metrics, checkpoints/step-N/. This is the part of it that whoever uses the trained
// model needs; train/checkpoint.h adds what resuming needs.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "tessera/config/json.h"
#include "tessera/data/state.h"
#include "tessera/models/model.h"

namespace tessera {

// What a trained model must know without its training files: run.json.
struct RunCard {
  std::string base;  // folder of the config file: relative data paths start there
  DataState data;    // sizes, class names, tokenizer, preprocessing

  static Json make(const std::filesystem::path& base, const Dataset& dataset);
  static Json make(const std::filesystem::path& base, const Json& data_state);
};

class RunFolder {
 public:
  // Throws when the folder holds no run.
  explicit RunFolder(std::filesystem::path path);

  const std::filesystem::path& path() const { return path_; }
  Json config() const;
  RunCard card() const;
  std::vector<int64_t> steps() const;  // of the whole checkpoints, ascending
  int64_t latest_step() const;         // throws when there is none
  // The model of a checkpoint (default: the newest), in evaluation mode; the averaged weights when
  // the run kept an average.
  std::unique_ptr<Model> load_model(std::optional<int64_t> step = {}, Device device = {}) const;

 private:
  std::filesystem::path path_;
};

// The folder of step N of a run, whether it exists or not.
std::filesystem::path checkpoint_folder(const std::filesystem::path& run, int64_t step);
std::vector<int64_t> checkpoint_steps(const std::filesystem::path& run);

// The trained weights of a checkpoint's folder: averages where the run kept some.
NamedTensors trained_weights(const std::filesystem::path& checkpoint);

// All tensors of a safetensors file, copied out of the mapping.
NamedTensors read_tensors(const std::filesystem::path& file);

}  // namespace tessera
