#include "tessera/train/start_from.h"

#include <set>

#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/view.h"
#include "tessera/models/run_folder.h"
#include "tessera/nn/positions.h"

namespace tessera {
namespace fs = std::filesystem;
namespace {

NamedTensors read_weights(const fs::path& source) {
  check(fs::exists(source), "train: --init {}: there is no such file or folder", source.string());
  if (!fs::is_directory(source)) return read_tensors(source);
  if (fs::exists(source / "model.safetensors")) return trained_weights(source);
  const RunFolder run(source);
  return trained_weights(checkpoint_folder(source, run.latest_step()));
}

// The names of all tables of learned positions.
class PositionTables : public Members {
 public:
  std::set<std::string> names;

 protected:
  void parameter(const std::string&, Tensor&) override {}
  void on_buffer(const std::string&, Tensor&) override {}
  void on_module(const std::string& path, Module& module) override {
    if (dynamic_cast<LearnedPositions*>(&module) != nullptr) names.insert(path + ".weight");
  }
};

Tensor repeated_rows(const Tensor& table, int64_t rows) {
  const Tensor all = empty({rows, table.size(1)}, {table.dtype(), table.device()});
  for (int64_t at = 0; at < rows; at += table.size(0)) {
    const int64_t count = std::min(table.size(0), rows - at);
    kernels::copy(views::slice(all, 0, at, at + count), views::slice(table, 0, 0, count));
  }
  return all;
}

}  // namespace

void start_from(Module& model, const fs::path& source) {
  NamedTensors weights = read_weights(source);
  PositionTables tables;
  tables.walk(model);
  for (const auto& [name, own] : model.state()) {
    if (!tables.names.contains(name)) continue;
    for (auto& [given_name, given] : weights) {
      if (given_name != name || given.rank() != 2 || given.size(0) == 0) continue;
      given = repeated_rows(given, own.size(0));
    }
  }
  try {
    model.load_state(weights);
  } catch (const Error& error) {
    fail("train: --init {}: {}", source.string(), error.what());
  }
}

}  // namespace tessera
