// tessera describe NAME | --config FILE [--json]
#include <fmt/format.h>

#include <filesystem>

#include "tessera/autograd/registry.h"
#include "tessera/cli/command.h"
#include "tessera/config/json.h"
#include "tessera/config/nearest.h"
#include "tessera/config/registry.h"
#include "tessera/core/error.h"
#include "tessera/core/random.h"
#include "tessera/train/config.h"

namespace tessera::cli {
namespace {
namespace fs = std::filesystem;

struct Options {
  std::string name;
  std::string config;
  std::vector<std::string> set;
  bool json = false;
};

int describe_name(const Options& o) {
  if (o.name == "run") {
    fmt::print("{}", describe<RunConfig>("run: the config file of `tessera train`"));
    return 0;
  }
  const std::vector<Entry> entries = find_entries(o.name);
  const OpInfo* op = OpRegistry::instance().find(o.name);
  if (entries.empty() && op == nullptr) {
    std::vector<std::string> known = {"run"};
    for (const RegistryInfo& registry : all_registries()) {
      for (const Entry& e : registry.entries) known.push_back(e.name);
    }
    for (const OpInfo* each : OpRegistry::instance().all()) known.push_back(each->name);
    fail("describe: nothing registered is called \"{}\"{}; see tessera list", o.name,
         did_you_mean(o.name, known));
  }
  Json answer = Json::array();
  for (const Entry& e : entries) {
    if (o.json) {
      answer.push_back({{"kind", e.kind},
                        {"name", e.name},
                        {"summary", e.summary},
                        {"source", e.source},
                        {"default", e.default_json()},
                        {"schema", e.schema()}});
    } else {
      fmt::print("{}\n", e.describe());
    }
  }
  if (op != nullptr && !o.json) {
    fmt::print("op {}: {}{}\ndifferentiable: {}\n", op->name, op->formula,
               op->source.empty() ? "" : "  [" + op->source + "]",
               op->orders == 0 ? "no" : (op->orders == 1 ? "once" : "twice"));
  }
  if (o.json) fmt::print("{}\n", answer.dump());
  return 0;
}

// The resolved config, and the model it makes, without training.
int describe_config(const Options& o) {
  Json json = read_json(o.config);
  for (const std::string& assignment : o.set) set_by_path(json, assignment);
  const auto config = from_json<RunConfig>(json);
  const auto data = config.data.build(
      DataContext{fs::absolute(o.config).parent_path(), static_cast<uint64_t>(config.seed)});
  RandomScope scope(static_cast<uint64_t>(config.seed));
  const auto model = config.model.build(data->info());
  if (o.json) {
    Json answer = {{"config", to_json(config)}, {"parameters", model->parameter_count()}};
    for (const auto& [name, tensor] : model->state()) {
      const Shape& shape = tensor.shape();
      answer["tensors"][name] = std::vector<int64_t>(shape.begin(), shape.end());
    }
    fmt::print("{}\n", answer.dump());
    return 0;
  }
  fmt::print("{}\n\n{}\n{} parameters in all\n", to_json(config).dump(2), model->summary(),
             model->parameter_count());
  return 0;
}

int run(const Options& o) {
  check(o.name.empty() != o.config.empty(), "describe: give a NAME or --config FILE");
  return o.name.empty() ? describe_config(o) : describe_name(o);
}

void add(Command app) {
  auto o = std::make_shared<Options>();
  Command command = app.add_subcommand("describe", "explain a registered name, or a config");
  command.add_option("name", o->name,
                     "anything from tessera list, or \"run\" for the whole config");
  command.add_option("--config", o->config, "show this config resolved, and the model it makes");
  command.add_option("--set", o->set, "change the config: --set model.width=64").allow_extra_args();
  command.add_flag("--json", o->json, "print the result as JSON");
  command.callback([o] { set_exit_code(run(*o)); });
}

const RegisterCommand row{"describe", add};

}  // namespace
}  // namespace tessera::cli
