// tessera list [KIND] [--json]
#include <fmt/format.h>

#include "tessera/autograd/registry.h"
#include "tessera/cli/command.h"
#include "tessera/config/json.h"
#include "tessera/config/nearest.h"
#include "tessera/config/registry.h"
#include "tessera/core/error.h"
#include "tessera/nn/check.h"

namespace tessera::cli {
namespace {

struct Options {
  std::string kind;
  bool json = false;
};

struct Line {
  std::string name, summary, source;
};

// Everything registered by kind: the config registries, and ops and layers besides.
std::vector<std::pair<std::string, std::vector<Line>>> everything() {
  std::vector<std::pair<std::string, std::vector<Line>>> kinds;
  for (const RegistryInfo& registry : all_registries()) {
    kinds.emplace_back(registry.kind, std::vector<Line>{});
    for (const Entry& e : registry.entries) {
      kinds.back().second.push_back({e.name, e.summary, e.source});
    }
  }
  kinds.emplace_back("layer", std::vector<Line>{});
  for (const LayerInfo* layer : LayerRegistry::instance().all()) {
    kinds.back().second.push_back({layer->name, layer->formula, layer->source});
  }
  kinds.emplace_back("op", std::vector<Line>{});
  for (const OpInfo* op : OpRegistry::instance().all()) {
    kinds.back().second.push_back({op->name, op->formula, op->source});
  }
  return kinds;
}

int run(const Options& o) {
  const auto kinds = everything();
  std::vector<std::string> names;
  for (const auto& [kind, lines] : kinds) names.push_back(kind);
  const bool known = std::find(names.begin(), names.end(), o.kind) != names.end();
  check(o.kind.empty() || known, "list: unknown kind \"{}\"{} (kinds: {})", o.kind,
        did_you_mean(o.kind, names), fmt::join(names, ", "));
  Json answer;
  for (const auto& [kind, lines] : kinds) {
    if (!o.kind.empty() && o.kind != kind) continue;
    if (!o.json) fmt::print("{}\n", kind);
    for (const Line& line : lines) {
      if (o.json) {
        answer[kind].push_back(
            {{"name", line.name}, {"summary", line.summary}, {"source", line.source}});
      } else {
        fmt::print("  {:<24} {}{}\n", line.name, line.summary,
                   line.source.empty() ? "" : fmt::format("  [{}]", line.source));
      }
    }
  }
  if (o.json) fmt::print("{}\n", answer.dump());
  return 0;
}

void add(Command app) {
  auto o = std::make_shared<Options>();
  Command command = app.add_subcommand("list", "what can be named in a config, and all ops");
  command.add_option("kind", o->kind, "only this kind: model, attention, dataset, op, …");
  command.add_flag("--json", o->json, "print the result as JSON");
  command.callback([o] { set_exit_code(run(*o)); });
}

const RegisterCommand row{"list", add};

}  // namespace
}  // namespace tessera::cli
