// tessera train CONFIG.json [--run DIR] [--init RUN|FILE] [--resume] [--set a.b=c …] [--check]
// [--json]
#include <fmt/format.h>

#include <filesystem>

#include "tessera/cli/command.h"
#include "tessera/cli/report.h"
#include "tessera/config/json.h"
#include "tessera/core/parallel.h"
#include "tessera/models/run_folder.h"
#include "tessera/train/trainer.h"

namespace tessera::cli {
namespace {
namespace fs = std::filesystem;

struct Options {
  std::string config;
  std::string run;
  std::string init;
  std::vector<std::string> set;
  bool resume = false;
  bool check = false;
  bool json = false;
  bool quiet = false;
  int threads = 0;
};

// A run folder may stand for the config it was made from.
Json read_config(const Options& o, fs::path& base) {
  const fs::path path = o.config;
  if (fs::is_directory(path)) {
    const RunFolder folder(path);
    base = folder.card().base;
    return folder.config();
  }
  base = fs::absolute(path).parent_path();
  return read_json(path);
}

int run(const Options& o) {
  fs::path base;
  Json json = read_config(o, base);
  for (const std::string& assignment : o.set) set_by_path(json, assignment);
  const auto config = from_json<RunConfig>(json);
  fs::path folder = fs::path("runs") / config.name;
  if (fs::is_directory(o.config)) folder = o.config;
  if (!o.run.empty()) folder = o.run;
  if (o.threads > 0) set_num_threads(o.threads);
  const TrainResult result = train(config, {.run = folder,
                                            .base = base,
                                            .init = o.init,
                                            .resume = o.resume,
                                            .quiet = o.quiet || o.json});
  if (result.end == TrainEnd::interrupted) return 130;
  write_report(folder);
  if (o.json) {
    Json answer = {{"run", folder.string()}, {"step", result.step}};
    for (const auto& [name, value] : result.metrics) answer["metrics"][name] = value;
    fmt::print("{}\n", answer.dump());
  } else {
    for (const auto& [name, value] : result.metrics) fmt::print("{} {:.4f}\n", name, value);
    fmt::print("run {}\n", folder.string());
  }
  if (!o.check) return 0;
  const ExpectReport report = check_expectations(config, result.metrics);
  fmt::print(o.json ? stderr : stdout, "{}", report.text);
  return report.ok ? 0 : 1;
}

void add(Command app) {
  auto o = std::make_shared<Options>();
  Command command = app.add_subcommand("train", "train a model from a config file");
  command.add_option("config", o->config, "config file, or a run folder to go on with").required();
  command.add_option("--run", o->run, "folder of the run (default: runs/<name>)");
  command.add_option("--init", o->init,
                     "weights to start from: a run folder, a checkpoint's folder or a safetensors "
                     "file; learned positions are repeated where the context grows");
  command.add_flag("--resume", o->resume, "go on from the newest checkpoint of the run");
  command.add_option("--set", o->set, "change the config: --set train.steps=100 model.width=64")
      .allow_extra_args();
  command.add_flag(
      "--check", o->check,
      "compare the final metrics with the config's \"expect\"; exit 1 when they fall short");
  command
      .add_option("--threads", o->threads,
                  "CPU threads (default: all; results do not depend on it)")
      .range(1, 1024);
  command.add_flag("--quiet", o->quiet, "no progress");
  command.add_flag("--json", o->json, "print the result as JSON");
  command.callback([o] { set_exit_code(run(*o)); });
}

const RegisterCommand row{"train", add};

}  // namespace
}  // namespace tessera::cli
