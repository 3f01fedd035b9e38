// tessera describe NAME | --config FILE [--set a.b=c …] [--json]
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
#include "tessera/train/cost.h"
#include "tessera/train/progress.h"

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

// Parameters of the model's own members, in order: "blocks" are all blocks.
std::vector<std::pair<std::string, int64_t>> parameters_by_member(Model& model) {
  std::vector<std::pair<std::string, int64_t>> members;
  for (const auto& [path, tensor] : model.parameters()) {
    const std::string member = path.substr(0, path.find('.'));
    if (members.empty() || members.back().first != member) members.emplace_back(member, 0);
    members.back().second += tensor.numel();
  }
  return members;
}

// "4,325,376 (4.33 M)"
std::string readable(int64_t count) {
  const auto value = static_cast<double>(count);
  if (count >= 1'000'000'000) return fmt::format("{} ({:.2f} G)", count_text(value), value / 1e9);
  if (count >= 1'000'000) return fmt::format("{} ({:.2f} M)", count_text(value), value / 1e6);
  return count_text(value);
}

struct Described {
  RunConfig config;
  std::unique_ptr<Model> model;
  Cost cost;  // of one element
};

Described describe_model(const Options& o) {
  Json json = read_json(o.config);
  for (const std::string& assignment : o.set) set_by_path(json, assignment);
  Described d{.config = from_json<RunConfig>(json), .model = nullptr, .cost = {}};
  const auto seed = static_cast<uint64_t>(d.config.seed);
  const auto data = d.config.data.build(DataContext{fs::absolute(o.config).parent_path(), seed});
  RandomScope scope(seed);
  d.model = d.config.model.build(data->info());
  const auto task = d.config.task.build();
  task->check_model(*d.model);
  d.cost = forward_cost(*task, *d.model, first_batch(*data, 1));
  return d;
}

Json shapes_json(const std::vector<std::pair<std::string, Shape>>& shapes) {
  Json json = Json::object();
  for (const auto& [name, shape] : shapes) {
    json[name] = std::vector<int64_t>(shape.begin(), shape.end());
  }
  return json;
}

void print_shapes(const char* title, const std::vector<std::pair<std::string, Shape>>& shapes) {
  for (const auto& [name, shape] : shapes) fmt::print("{:<8} {:<16} {}\n", title, name, shape);
}

// The resolved config, the model it makes, and what a forward pass of one element costs.
int describe_config(const Options& o) {
  const Described d = describe_model(o);
  const auto members = parameters_by_member(*d.model);
  if (o.json) {
    Json answer = {
        {"config", to_json(d.config)},           {"parameters", d.model->parameter_count()},
        {"multiply_adds", d.cost.multiply_adds}, {"score_entries", d.cost.score_entries},
        {"inputs", shapes_json(d.cost.inputs)},  {"outputs", shapes_json(d.cost.outputs)}};
    for (const auto& [member, count] : members) answer["parameters_by_member"][member] = count;
    NamedTensors state = d.model->state();
    for (const auto& [name, tensor] : state) {
      const Shape& shape = tensor.shape();
      answer["tensors"][name] = std::vector<int64_t>(shape.begin(), shape.end());
    }
    fmt::print("{}\n", answer.dump());
    return 0;
  }
  fmt::print("{}\n\n{}\n", to_json(d.config).dump(2), d.model->summary());
  for (const auto& [member, count] : members)
    fmt::print("{:<24} {:>16}\n", member, count_text(static_cast<double>(count)));
  fmt::print("{} parameters in all\n\none forward pass of one element:\n",
             readable(d.model->parameter_count()));
  print_shapes("input", d.cost.inputs);
  print_shapes("output", d.cost.outputs);
  fmt::print("multiply-adds {}\nscore entries {}\n", readable(d.cost.multiply_adds),
             readable(d.cost.score_entries));
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
  command.add_option("--config", o->config,
                     "show this config resolved, its model, and what a forward pass costs");
  command.add_option("--set", o->set, "change the config: --set model.width=64").allow_extra_args();
  command.add_flag("--json", o->json, "print the result as JSON");
  command.callback([o] { set_exit_code(run(*o)); });
}

const RegisterCommand row{"describe", add};

}  // namespace
}  // namespace tessera::cli
