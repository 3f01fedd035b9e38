#include "tessera/train/checkpoint.h"

#include <fcntl.h>
#include <unistd.h>

#include "tessera/core/file.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/safetensors.h"

namespace tessera {
namespace fs = std::filesystem;
namespace {

// Makes a rename inside the folder survive a loss of power.
void sync_folder(const fs::path& folder) {
  const int handle = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY);
  if (handle < 0) return;
  ::fsync(handle);
  ::close(handle);
}

// Files hold what the CPU would have written: on the CPU, and no halves.
NamedTensors for_file(NamedTensors tensors) {
  for (auto& [name, tensor] : tensors) {
    if (is_half(tensor.dtype())) tensor = kernels::cast(tensor, DType::f32);
    tensor = kernels::to_device(kernels::contiguous(tensor), Device{});
  }
  return tensors;
}

}  // namespace

void write_checkpoint(const fs::path& run, const Checkpoint& c) {
  const fs::path final_name = checkpoint_folder(run, c.step);
  fs::path temporary = final_name;
  temporary += ".tmp";
  fs::remove_all(temporary);
  fs::create_directories(temporary);
  write_safetensors(temporary / "model.safetensors", for_file(c.model));
  write_safetensors(temporary / "optimizer.safetensors", for_file(c.optimizer));
  if (!c.ema.empty()) write_safetensors(temporary / "ema.safetensors", for_file(c.ema));
  Json state = c.state;
  state["step"] = c.step;
  write_file_atomic(temporary / "state.json", state.dump(2) + "\n");
  fs::remove_all(final_name);
  fs::rename(temporary, final_name);
  sync_folder(final_name.parent_path());
}

Checkpoint read_checkpoint(const fs::path& folder) {
  Checkpoint c;
  c.state = read_json(folder / "state.json");
  check(c.state.is_object() && c.state.contains("step") && c.state["step"].is_number_integer(),
        "{}: no step number", (folder / "state.json").string());
  c.step = c.state["step"].get<int64_t>();
  check(folder.filename() == checkpoint_folder({}, c.step).filename(),
        "{}: step {} is not the one of its folder", (folder / "state.json").string(), c.step);
  c.model = read_tensors(folder / "model.safetensors");
  c.optimizer = read_tensors(folder / "optimizer.safetensors");
  if (fs::exists(folder / "ema.safetensors")) c.ema = read_tensors(folder / "ema.safetensors");
  return c;
}

void prune_checkpoints(const fs::path& run, int64_t keep) {
  const std::vector<int64_t> steps = checkpoint_steps(run);
  for (size_t i = 0; i + static_cast<size_t>(keep) < steps.size(); ++i) {
    fs::remove_all(checkpoint_folder(run, steps[i]));
  }
}

}  // namespace tessera
