// tessera compare CONFIG… [--set a.b=c …] [--seeds N] [--budget steps=…|tokens=…|score_entries=…]
// [--out DIR] [--resume]
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>

#include "tessera/cli/command.h"
#include "tessera/cli/comparison.h"
#include "tessera/core/file.h"
#include "tessera/core/random.h"
#include "tessera/models/run_folder.h"
#include "tessera/train/cost.h"
#include "tessera/train/trainer.h"

namespace tessera::cli {
namespace {
namespace fs = std::filesystem;

struct Options {
  std::vector<std::string> configs;
  std::vector<std::string> set;
  int64_t seeds = 1;
  std::string budget;
  std::string out = "runs/compare";
  std::string metric;
  bool resume = false;
  bool quiet = false;
  bool json = false;
};

struct Contestant {
  std::string file;
  fs::path base;
  RunConfig config;
};

// The first place where two JSON values differ: "data.context: 64, 128"; "" where they do not.
std::string difference(const Json& a, const Json& b, const std::string& path) {
  if (a == b) return "";
  if (a.is_object() && b.is_object()) {
    for (const auto& [key, value] : a.items()) {
      if (!b.contains(key)) return join_path(path, key);
      const std::string found = difference(value, b[key], join_path(path, key));
      if (!found.empty()) return found;
    }
  }
  return fmt::format("{}: {}, {}", path, preview(a), preview(b));
}

void check_alike(const std::vector<Contestant>& all) {
  const Json data = to_json(all.front().config.data), task = to_json(all.front().config.task);
  for (const Contestant& c : all) {
    const std::string other = difference(data, to_json(c.config.data), "data");
    check(other.empty(), "compare: {} and {} learn from different data ({}); use --set data.…",
          all.front().file, c.file, other);
    const std::string aim = difference(task, to_json(c.config.task), "task");
    check(aim.empty(), "compare: {} and {} learn different tasks ({})", all.front().file, c.file,
          aim);
  }
}

std::vector<Contestant> read_all(const Options& o) {
  std::vector<Contestant> all;
  for (const std::string& file : o.configs) {
    Json json = read_json(file);
    for (const std::string& assignment : o.set) set_by_path(json, assignment);
    all.push_back({file, fs::absolute(file).parent_path(), from_json<RunConfig>(json)});
    const auto same = [&](const Contestant& c) { return c.config.name == all.back().config.name; };
    const auto count = std::count_if(all.begin(), all.end(), same);
    if (count > 1) all.back().config.name += fmt::format("-{}", count);
  }
  check_alike(all);
  return all;
}

// What one update of a contestant takes, found on a few elements of the data.
struct Stride {
  double units = 0;
  double score_entries = 0;
};

Batch few_elements(const Dataset& data) {
  const Batch one = first_batch(data, 1);
  const int64_t size = std::max<int64_t>(1, data.info().context);
  return first_batch(data, std::clamp<int64_t>(8192 / size, 1, 8));
}

Stride stride_of(const Contestant& c) {
  const auto seed = static_cast<uint64_t>(c.config.seed);
  const auto data = c.config.data.build(DataContext{c.base, seed});
  const RandomScope scope(seed);
  const auto model = c.config.model.build(data->info());
  const auto task = c.config.task.build();
  task->check_model(*model);
  const Batch batch = few_elements(*data);
  const Cost cost = forward_cost(*task, *model, batch);
  const auto elements = static_cast<double>(batch.begin()->second.size(0));
  const auto per_step = static_cast<double>(c.config.train.batch * c.config.train.accumulate);
  return {static_cast<double>(cost.units) / elements * per_step,
          static_cast<double>(cost.score_entries) / elements * per_step};
}

struct Budget {
  std::string kind = "steps";
  double amount = 0;
};

Budget budget_of(const Options& o, const RunConfig& first) {
  if (o.budget.empty()) return {"steps", static_cast<double>(first.train.steps)};
  const size_t equals = o.budget.find('=');
  Budget budget{o.budget.substr(0, equals)};
  const std::string number = equals == std::string::npos ? "" : o.budget.substr(equals + 1);
  const char* end = number.data() + number.size();
  const auto [stop, error] = std::from_chars(number.data(), end, budget.amount);
  const bool known =
      budget.kind == "steps" || budget.kind == "tokens" || budget.kind == "score_entries";
  check(known && error == std::errc() && stop == end && budget.amount >= 1 &&
            std::isfinite(budget.amount),
        "compare: --budget {}: give steps=N, tokens=N or score_entries=N", o.budget);
  return budget;
}

int64_t steps_of(const Budget& budget, const Contestant& c) {
  double per_step = 1;
  if (budget.kind != "steps") {
    const Stride stride = stride_of(c);
    per_step = budget.kind == "tokens" ? stride.units : stride.score_entries;
    check(per_step > 0, "compare: {} computes no score entries; give --budget steps=N", c.file);
  }
  return std::max<int64_t>(1, std::llround(budget.amount / per_step));
}

// The run of a contestant with a seed: read where it is finished, else trained.
TrainResult result_of(const Options& o, const Contestant& c, const fs::path& folder) {
  if (o.resume && fs::exists(folder / "config.json")) {
    const std::string other = difference(to_json(c.config), read_json(folder / "config.json"), "");
    check(other.empty(), "compare: {} holds a run of another config ({}); use another --out",
          folder.string(), other);
    if (const auto result = read_result(folder)) return *result;
  }
  return train(c.config,
               {.run = folder, .base = c.base, .resume = o.resume, .quiet = o.quiet || o.json});
}

// What does not depend on the seed, from a trained model: mechanisms that choose tokens have
// learned to.
void add_costs(ComparedModel& m, const Contestant& c, const fs::path& folder) {
  const auto seed = static_cast<uint64_t>(c.config.seed);
  const auto data = c.config.data.build(DataContext{c.base, seed});
  const auto model = RunFolder(folder).load_model();
  const auto task = c.config.task.build();
  const RandomScope scope(seed);
  m.parameters = model->parameter_count();
  const Batch batch = few_elements(*data);
  const Cost cost = forward_cost(*task, *model, batch);
  const auto units = static_cast<double>(cost.units);
  m.score_entries = static_cast<double>(cost.score_entries) / units;
  m.multiply_adds = static_cast<double>(cost.multiply_adds) / units;
  const auto elements = static_cast<double>(batch.begin()->second.size(0));
  m.units = units / elements *
            static_cast<double>(m.steps * c.config.train.batch * c.config.train.accumulate);
}

bool is_small_good(const Task& task, const std::string& metric) {
  if (metric.ends_with(task.headline())) return task.smaller_is_better();
  return metric.ends_with("loss") || metric.ends_with("perplexity");
}

int run(const Options& o) {
  std::vector<Contestant> all = read_all(o);
  const Budget budget = budget_of(o, all.front().config);
  const auto task = all.front().config.task.build();
  Comparison table{.metric = o.metric.empty() ? "val_" + task->headline() : o.metric,
                   .smaller_is_better = true,
                   .unit = task->unit(),
                   .budget = fmt::format("{}={:.0f}", budget.kind, budget.amount),
                   .models = {}};
  table.smaller_is_better = is_small_good(*task, table.metric);
  const int64_t first_seed = all.front().config.seed;
  for (Contestant& c : all) {
    ComparedModel model;
    model.name = c.config.name;
    c.config.train.steps = steps_of(budget, c);
    for (int64_t i = 0; i < o.seeds; ++i) {
      c.config.seed = first_seed + i;
      const fs::path folder =
          fs::path(o.out) / c.config.name / fmt::format("seed-{}", c.config.seed);
      if (!o.json) fmt::print(stderr, "{}, seed {}\n", c.config.name, c.config.seed);
      const TrainResult result = result_of(o, c, folder);
      if (result.end == TrainEnd::interrupted) return 130;
      check(result.metrics.contains(table.metric), "compare: {} has no metric \"{}\"",
            folder.string(), table.metric);
      model.steps = result.step;
      model.quality.push_back(result.metrics.at(table.metric));
      model.units_per_second.push_back(result.units_per_second);
      model.peak_memory.push_back(static_cast<double>(result.peak_memory));
      if (i == 0) add_costs(model, c, folder);
    }
    table.models.push_back(std::move(model));
  }
  const fs::path out = o.out;
  write_file_atomic(out / "compare.json", table_json(table).dump(2) + "\n");
  write_file_atomic(out / "compare.txt", table_text(table));
  draw_trade_off(table).save(out / "compare.png");
  if (o.json) {
    fmt::print("{}\n", table_json(table).dump());
  } else {
    fmt::print("{}\nbudget {}, {} seed{}; {}\n", table_text(table), table.budget, o.seeds,
               o.seeds == 1 ? "" : "s", (out / "compare.png").string());
  }
  return 0;
}

void add(Command app) {
  auto o = std::make_shared<Options>();
  Command command =
      app.add_subcommand("compare", "train configs on the same data and put them side by side");
  command
      .add_option("configs", o->configs,
                  "config files; the first is what others are measured against")
      .required();
  command.add_option("--set", o->set, "change every config: --set train.batch=8 data.context=256")
      .allow_extra_args();
  command.add_option("--seeds", o->seeds, "runs of each config (default: 1)").range(1, 1000);
  command.add_option("--budget", o->budget,
                     "steps=N, tokens=N or score_entries=N of each run (default: the first "
                     "config's steps)");
  command.add_option("--out", o->out, "folder of runs and table (default: runs/compare)");
  command.add_option("--metric", o->metric, "what counts (default: val_loss or val_accuracy)");
  command.add_flag("--resume", o->resume, "keep finished runs, go on with the others");
  command.add_flag("--quiet", o->quiet, "no progress");
  command.add_flag("--json", o->json, "print the result as JSON");
  command.callback([o] { set_exit_code(run(*o)); });
}

const RegisterCommand row{"compare", add};

}  // namespace
}  // namespace tessera::cli
