// Checkpoints: a folder checkpoints/step-N with model.safetensors, optimizer.safetensors,
// ema.safetensors where there is an average, and state.json. A checkpoint is written under a
// temporary name, synced and renamed, so a folder with the final name is whole.
#pragma once

#include <filesystem>
#include <optional>
#include <vector>

#include "tessera/config/json.h"
#include "tessera/models/run_folder.h"

namespace tessera {

struct Checkpoint {
  int64_t step = 0;
  NamedTensors model;
  NamedTensors optimizer;
  NamedTensors ema;  // empty without an average
  Json state;        // loader position, best metrics, tokenizer, …
};

void write_checkpoint(const std::filesystem::path& run, const Checkpoint& checkpoint);
Checkpoint read_checkpoint(const std::filesystem::path& folder);

// Removes all but the newest `keep`, and half-written ones.
void prune_checkpoints(const std::filesystem::path& run, int64_t keep);

}  // namespace tessera
