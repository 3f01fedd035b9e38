// tessera bench step CONFIG [--steps N] [--set a.b=c …] [--json]
#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <map>

#include "tessera/autograd/profile.h"
#include "tessera/autograd/tape.h"
#include "tessera/cli/command.h"
#include "tessera/config/json.h"
#include "tessera/core/allocator.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/kernels/gemm.h"
#include "tessera/core/parallel.h"
#include "tessera/core/random.h"
#include "tessera/data/loader.h"
#include "tessera/train/config.h"

namespace tessera::cli {
namespace {
namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

struct Options {
  std::string config;
  std::vector<std::string> set;
  int64_t steps = 30;
  int threads = 0;
  bool json = false;
};

// A training step made of the parts the trainer uses, each timed.
struct Step {
  std::unique_ptr<Dataset> data;
  std::unique_ptr<Task> task;
  std::unique_ptr<Model> model;
  std::vector<Parameter> parameters;
  std::unique_ptr<Optimizer> optimizer;
  std::unique_ptr<Loader> loader;
  int64_t units = 0;
  uint64_t count = 0;

  Step(const RunConfig& c, const fs::path& base) {
    const auto seed = static_cast<uint64_t>(c.seed);
    RandomScope scope(seed);
    data = c.data.build(DataContext{base, seed});
    task = c.task.build();
    model = c.model.build(data->info());
    parameters = parameters_of(*model, c.train.no_decay);
    optimizer = c.train.optimizer.build(parameters);
    loader = std::make_unique<Loader>(*data, Split::train,
                                      LoaderOptions{.batch = c.train.batch, .seed = seed});
  }

  void run() {
    RandomScope scope(1, count++);
    Batch batch;
    {
      const ProfileTimer timer("data");
      batch = loader->next();
    }
    units = task->units(batch);
    const Tensor loss = task->loss(*model, batch, {});
    loss.backward();
    const ProfileTimer timer("optimizer");
    const double norm = gradient_norm(parameters);
    optimizer->step(1, std::min(1.0, 1 / (norm + 1e-6)));
    model->zero_grad();
  }
};

int64_t page_faults() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_minflt;
}

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// The kernels that do the arithmetic of a model, as opposed to copies, bookkeeping and data.
const char* group_of(const std::string& row) {
  const std::string op = row.substr(0, row.find(' '));
  for (const char* gemm : {"matmul", "linear", "linear_cross_entropy", "conv"}) {
    if (op == gemm) return "gemm";
  }
  if (op.ends_with("attention")) return "attention";
  for (const char* other :
       {"data", "optimizer", "slice", "concat", "reshape", "permute", "expand", "clone"}) {
    if (op == other) return "other";
  }
  return "pointwise";
}

int run(const Options& o) {
  Json json = read_json(o.config);
  for (const std::string& assignment : o.set) set_by_path(json, assignment);
  const auto config = from_json<RunConfig>(json);
  if (o.threads > 0) set_num_threads(o.threads);
  flush_denormals();
  Step step(config, fs::absolute(o.config).parent_path());
  for (int i = 0; i < 3; ++i) step.run();

  const AllocatorStats before = allocator({}).stats();
  const int64_t faults = page_faults();
  const int64_t copies = kernels::contiguous_bytes();
  const int64_t flops = kernels::gemm_flops();
  std::vector<double> times;
  for (int64_t i = 0; i < o.steps; ++i) {
    const auto start = Clock::now();
    step.run();
    times.push_back(seconds_since(start));
  }
  std::sort(times.begin(), times.end());
  const double median = times[times.size() / 2];
  const double steps = static_cast<double>(o.steps);
  const double gflop = static_cast<double>(kernels::gemm_flops() - flops) / steps / 1e9;

  ProfileScope profile;
  const auto start = Clock::now();
  for (int64_t i = 0; i < o.steps; ++i) step.run();
  const double total = seconds_since(start);
  std::map<std::string, double> groups;
  double timed = 0;
  for (const ProfileRow& row : profile.rows()) {
    groups[group_of(row.name)] += row.seconds;
    timed += row.seconds;
  }
  groups["other"] += total - timed;

  if (o.json) {
    Json answer = {{"ms", median * 1e3},
                   {"ms_min", times.front() * 1e3},
                   {"ms_max", times.back() * 1e3},
                   {"gflop", gflop}};
    for (const auto& [name, seconds] : groups) answer["shares"][name] = seconds / total;
    fmt::print("{}\n", answer.dump());
    return 0;
  }
  fmt::print("{}: {} parameters, {} threads\n", config.name, step.model->parameter_count(),
             num_threads());
  fmt::print(
      "step: median {:.2f} ms ({:.2f} to {:.2f}), {:.0f} {}/s, {:.1f} GFLOP/s in products\n\n",
      median * 1e3, times.front() * 1e3, times.back() * 1e3,
      static_cast<double>(step.units) / median, step.task->unit(), gflop / median);
  fmt::print("{:<32} {:>8} {:>10} {:>7}\n", "op", "calls", "us/step", "share");
  for (const ProfileRow& row : profile.rows()) {
    fmt::print("{:<32} {:>8.1f} {:>10.1f} {:>6.1f}%\n", row.name,
               static_cast<double>(row.calls) / steps, row.seconds / steps * 1e6,
               100 * row.seconds / total);
  }
  fmt::print("\n");
  for (const auto& [name, seconds] : groups) {
    fmt::print("{:<32} {:>8} {:>10.1f} {:>6.1f}%\n", name, "", seconds / steps * 1e6,
               100 * seconds / total);
  }
  const AllocatorStats after = allocator({}).stats();
  fmt::print(
      "\nper step: {:.1f} calls for memory, {:.1f} page faults, {:.0f} bytes copied to make "
      "contiguous\n",
      static_cast<double>(after.system_calls - before.system_calls) / (2 * steps),
      static_cast<double>(page_faults() - faults) / (2 * steps),
      static_cast<double>(kernels::contiguous_bytes() - copies) / (2 * steps));
  fmt::print("peak memory of tensors: {:.1f} MB\n", static_cast<double>(after.peak) / 1e6);
  return 0;
}

void add(CLI::App& app) {
  auto* bench = app.add_subcommand("bench", "measure speed");
  bench->require_subcommand(1);
  auto o = std::make_shared<Options>();
  auto* command = bench->add_subcommand("step", "time a config's training step, op by op");
  command->add_option("config", o->config, "config file")->required();
  command->add_option("--steps", o->steps, "how many steps to time (default: 30)")
      ->check(CLI::Range(1, 100000));
  command->add_option("--set", o->set, "change the config: --set train.batch=64")
      ->allow_extra_args();
  command->add_option("--threads", o->threads, "CPU threads (default: all)")
      ->check(CLI::Range(1, 1024));
  command->add_flag("--json", o->json, "print the result as JSON");
  command->callback([o] { set_exit_code(run(*o)); });
}

const RegisterCommand row{"bench", add};

}  // namespace
}  // namespace tessera::cli
