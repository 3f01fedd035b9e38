// tessera gradcheck [NAME …|--all] [--json]
#include <fmt/format.h>

#include <chrono>

#include "tessera/cli/command.h"
#include "tessera/config/json.h"
#include "tessera/config/nearest.h"
#include "tessera/core/error.h"
#include "tessera/models/conformance.h"

namespace tessera::cli {
namespace {

struct Options {
  std::vector<std::string> names;
  bool all = false;
  bool json = false;
};

bool wanted(const Options& o, const GradcheckRow& row) {
  if (o.all) return true;
  for (const std::string& name : o.names) {
    if (name == row.name || name == row.kind + "/" + row.name || name == row.kind) return true;
  }
  return false;
}

void check_names(const Options& o, const std::vector<GradcheckRow>& rows) {
  std::vector<std::string> known;
  for (const GradcheckRow& row : rows) known.push_back(row.name);
  for (const std::string& name : o.names) {
    bool found = false;
    for (const GradcheckRow& row : rows) {
      found = found || name == row.name || name == row.kind || name == row.kind + "/" + row.name;
    }
    if (found) continue;
    fail("gradcheck: nothing registered is called \"{}\"{}", name, did_you_mean(name, known));
  }
}

int run(const Options& o) {
  const std::vector<GradcheckRow> rows = gradcheck_rows();
  check(o.all || !o.names.empty(), "gradcheck: name what to check, or pass --all");
  check_names(o, rows);
  Json answer = Json::array();
  int64_t failed = 0;
  int64_t count = 0;
  if (!o.json)
    fmt::print("{:<13} {:<26} {:>8} {:>10}  {}\n", "kind", "name", "entries", "worst", "");
  for (const GradcheckRow& row : rows) {
    if (!wanted(o, row)) continue;
    GradcheckResult r;
    try {
      r = row.run();
    } catch (const std::exception& error) {
      r = {false, 0, 0, error.what()};
    }
    ++count;
    failed += !r.ok;
    if (o.json) {
      answer.push_back({{"kind", row.kind},
                        {"name", row.name},
                        {"ok", r.ok},
                        {"entries", r.entries},
                        {"worst", r.worst},
                        {"message", r.message}});
    } else {
      fmt::print("{:<13} {:<26} {:>8} {:>10.1e}  {}\n", row.kind, row.name, r.entries, r.worst,
                 r.ok ? "ok" : "FAIL " + r.message);
    }
  }
  if (o.json) {
    fmt::print("{}\n", answer.dump());
  } else {
    fmt::print("{} checked, {} failed\n", count, failed);
  }
  return failed == 0 ? 0 : 1;
}

void add(Command app) {
  auto o = std::make_shared<Options>();
  Command command = app.add_subcommand(
      "gradcheck", "compare gradients with central differences in f64, first and second order");
  command.add_option("names", o->names, "ops, layers or models, or a kind of them");
  command.add_flag("--all", o->all, "everything that is registered");
  command.add_flag("--json", o->json, "print the result as JSON");
  command.callback([o] { set_exit_code(run(*o)); });
}

const RegisterCommand row{"gradcheck", add};

}  // namespace
}  // namespace tessera::cli
