// The trainer: runs a config to its end, or on from where it stopped.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include "tessera/train/config.h"

namespace tessera {

struct TrainOptions {
  std::filesystem::path run;   // the run's folder, made when missing
  std::filesystem::path base;  // where relative data paths start: the folder of the config file
  std::filesystem::path init = {};  // weights to start from (train/start_from.h); empty: random
  bool resume = false;              // go on from the newest checkpoint; without one start anew
  bool quiet = false;               // no progress on stderr
};

enum class TrainEnd { finished, early_stop, interrupted };

struct TrainResult {
  TrainEnd end = TrainEnd::finished;
  int64_t step = 0;
  std::map<std::string, double> metrics;  // "train_loss", "val_loss", "val_accuracy", "test_…"
  // Of this process's steps: what passed per second after the first tenth of them, and the most
  // bytes that tensors held on the device.
  std::string unit;  // "tokens", "images"
  double units_per_second = 0;
  int64_t peak_memory = 0;
};

// Trains and leaves behind config.json, run.json, metrics.jsonl, TensorBoard events, checkpoints,
// samples and, at its end, result.json. A run killed at any instant and resumed ends with the same
// bits as an undisturbed one, for any number of threads (on CUDA: with train.deterministic). SIGINT
// and SIGTERM finish the step, save and return `interrupted`. A loss or gradient that is not finite
// ends in an Error that names the step and the last good checkpoint. A folder that already holds a
// run is refused unless resuming. A run that starts from other weights evaluates them first, as
// step 0; resumed, it goes on from its own checkpoint.
TrainResult train(const RunConfig& config, const TrainOptions& options);

// The result of a run that has come to its end (result.json); none of one that has not.
std::optional<TrainResult> read_result(const std::filesystem::path& run);

// A line per expectation of the config with the measured value; `ok` when all hold.
struct ExpectReport {
  bool ok = true;
  std::string text;
};
ExpectReport check_expectations(const RunConfig& config,
                                const std::map<std::string, double>& metrics);

}  // namespace tessera
