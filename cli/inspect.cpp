// tessera inspect RUN|FILE.safetensors [--json]
#include <fmt/format.h>

#include <filesystem>

#include "tessera/cli/command.h"
#include "tessera/core/safetensors.h"
#include "tessera/models/run_folder.h"

namespace tessera::cli {
namespace {
namespace fs = std::filesystem;

struct Options {
  std::string path;
  bool json = false;
};

int inspect_file(const fs::path& path, bool json) {
  const SafetensorsFile file = SafetensorsFile::open(path);
  Json answer = Json::object();
  int64_t total = 0;
  for (const std::string& name : file.names()) {
    const auto& info = file.info(name);
    total += info.shape.numel();
    if (json) {
      answer[name] = {{"dtype", info.dtype},
                      {"shape", std::vector<int64_t>(info.shape.begin(), info.shape.end())}};
    } else {
      fmt::print("{:<48} {:<5} {}\n", name, info.dtype, info.shape);
    }
  }
  if (json) {
    fmt::print("{}\n", answer.dump());
  } else {
    fmt::print("{} tensors, {} elements\n", file.names().size(), total);
  }
  return 0;
}

int inspect_run(const RunFolder& folder, bool json) {
  const std::vector<int64_t> steps = folder.steps();
  if (json) {
    fmt::print("{}\n", Json{{"config", folder.config()}, {"checkpoints", steps}}.dump());
    return 0;
  }
  fmt::print("run {}\ncheckpoints at steps: {}\n", folder.path().string(), fmt::join(steps, ", "));
  if (steps.empty()) return 0;
  const auto model = folder.load_model();
  fmt::print("{}{} parameters in all\n", model->summary(), model->parameter_count());
  return 0;
}

int run(const Options& o) {
  if (fs::is_directory(o.path)) return inspect_run(RunFolder(o.path), o.json);
  return inspect_file(o.path, o.json);
}

void add(Command app) {
  auto o = std::make_shared<Options>();
  Command command = app.add_subcommand("inspect", "what is in a run or in a safetensors file");
  command.add_option("path", o->path, "run folder or FILE.safetensors").required();
  command.add_flag("--json", o->json, "print the result as JSON");
  command.callback([o] { set_exit_code(run(*o)); });
}

const RegisterCommand row{"inspect", add};

}  // namespace
}  // namespace tessera::cli
