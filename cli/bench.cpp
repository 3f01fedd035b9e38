// tessera bench step CONFIG [--steps N] [--set a.b=c …] [--profile] [--json]
#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <map>

#include "tessera/autograd/profile.h"
#include "tessera/autograd/tape.h"
#include "tessera/cli/bench.h"
#include "tessera/cli/command.h"
#include "tessera/config/json.h"
#include "tessera/core/allocator.h"
#include "tessera/core/deterministic.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/kernels/gemm.h"
#include "tessera/core/parallel.h"
#include "tessera/core/random.h"
#include "tessera/data/loader.h"
#include "tessera/train/config.h"
#include "tessera/train/device_step.h"

namespace tessera::cli {
namespace {
namespace fs = std::filesystem;

struct Options {
  std::string config;
  std::vector<std::string> set;
  int64_t steps = 30;
  int threads = 0;
  bool profile = false;
  bool json = false;
};

// A training step made of the parts the trainer uses, each timed.
struct Step {
  std::unique_ptr<Dataset> data;
  std::unique_ptr<Task> task;
  std::unique_ptr<Model> model;
  Device device;
  std::vector<Parameter> parameters;
  std::unique_ptr<Optimizer> optimizer;
  std::unique_ptr<Loader> loader;
  std::unique_ptr<DeviceStep> on_device;
  int64_t accumulate = 1;
  int64_t units = 0;
  int64_t count = 0;

  Step(const RunConfig& c, const fs::path& base)
      : device(device_from_name(c.device)), accumulate(c.train.accumulate) {
    const auto seed = static_cast<uint64_t>(c.seed);
    RandomScope scope(seed);
    kernels::set_tf32(c.train.precision == "tf32");
    set_deterministic(c.train.deterministic);
    data = c.data.build(DataContext{base, seed});
    task = c.task.build();
    model = c.model.build(data->info());
    const DType dtype = c.train.precision == "bf16" ? DType::bf16 : DType::f32;
    parameters = place(*model, device, dtype, c.train.no_decay);
    optimizer = c.train.optimizer.build(parameters);
    loader = std::make_unique<Loader>(
        *data, Split::train,
        LoaderOptions{.batch = c.train.batch,
                      .seed = seed,
                      .threads = static_cast<int>(c.train.loader_threads)});
    if (device.is_cuda()) make_device_step(c.train.cuda_graph);
  }

  void make_device_step(const std::string& graph) {
    if constexpr (kCuda) {
      on_device.reset();
      on_device = DeviceStep::make(
          *model, [this](const Batch& b, int64_t step) { return loss(b, step); }, parameters,
          *optimizer, nullptr,
          {.device = device, .clip = 1, .accumulate = accumulate, .cuda_graph = graph});
    }
  }

  Tensor loss(const Batch& batch, int64_t step) {
    return training_loss(*task, *model, batch, {.step = step});
  }

  void run() {
    std::vector<Batch> batches;
    {
      const ProfileTimer timer("data");
      for (int64_t i = 0; i < accumulate; ++i) batches.push_back(loader->next());
    }
    units = 0;
    for (const Batch& batch : batches) units += task->units(batch);
    if (on_device != nullptr) {
      on_device->run(count++, 1, batches);
      on_device->results(false);
      return;
    }
    RandomScope scope(1, static_cast<uint64_t>(count++));
    for (const Batch& batch : batches) loss(batch, count).backward();
    const ProfileTimer timer("optimizer");
    const double share = 1 / static_cast<double>(accumulate);
    const double norm = gradient_norm(parameters) * share;
    optimizer->step(1, share * std::min(1.0, 1 / (norm + 1e-6)));
    model->zero_grad();
  }

  // Seconds per step, measured over `steps` of them.
  double time(int64_t steps) {
    synchronize(device);
    const auto start = std::chrono::steady_clock::now();
    for (int64_t i = 0; i < steps; ++i) run();
    synchronize(device);
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    return elapsed.count() / static_cast<double>(steps);
  }
};

int64_t page_faults() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_minflt;
}

// The kernels that do the arithmetic of a model, as opposed to copies, bookkeeping and data.
const char* group_of(const std::string& row) {
  const std::string op = row.substr(0, row.find(' '));
  for (const char* gemm : {"matmul", "linear", "mlp", "linear_cross_entropy", "conv"}) {
    if (op == gemm) return "gemm";
  }
  if (op.ends_with("attention")) return "attention";
  for (const char* other :
       {"data", "optimizer", "slice", "concat", "reshape", "permute", "expand", "clone"}) {
    if (op == other) return "other";
  }
  return "pointwise";
}

struct Profile {
  std::vector<ProfileRow> rows;
  std::map<std::string, double> groups;
  double total = 0;  // seconds
};

// Every operation by itself: a recorded graph has none.
Profile profile_steps(Step& step, int64_t steps) {
  if (step.device.is_cuda()) {
    step.make_device_step("off");
    step.time(1);
  }
  Profile result;
  const ProfileScope scope(step.device);
  result.total = step.time(steps) * static_cast<double>(steps);
  result.rows = scope.rows();
  double timed = 0;
  for (const ProfileRow& row : result.rows) {
    result.groups[group_of(row.name)] += row.seconds;
    timed += row.seconds;
  }
  result.groups["other"] += result.total - timed;
  return result;
}

void print_profile(const Profile& profile, double steps) {
  fmt::print("\n{:<32} {:>8} {:>10} {:>7}\n", "op", "calls", "us/step", "share");
  for (const ProfileRow& row : profile.rows) {
    fmt::print("{:<32} {:>8.1f} {:>10.1f} {:>6.1f}%\n", row.name,
               static_cast<double>(row.calls) / steps, row.seconds / steps * 1e6,
               100 * row.seconds / profile.total);
  }
  fmt::print("\n");
  for (const auto& [name, seconds] : profile.groups) {
    fmt::print("{:<32} {:>8} {:>10.1f} {:>6.1f}%\n", name, "", seconds / steps * 1e6,
               100 * seconds / profile.total);
  }
}

int run(const Options& o) {
  Json json = read_json(o.config);
  for (const std::string& assignment : o.set) set_by_path(json, assignment);
  const auto config = from_json<RunConfig>(json);
  if (o.threads > 0) set_num_threads(o.threads);
  flush_denormals();
  Step step(config, fs::absolute(o.config).parent_path());
  const bool cuda = step.device.is_cuda();
  step.run();
  step.time(1);
  const int64_t flops = kernels::gemm_flops();
  step.run();
  const double gflop = static_cast<double>(kernels::gemm_flops() - flops) / 1e9;
  if (cuda) step.time(20);  // records the graph; clocks and power settle

  const AllocatorStats before = allocator(step.device).stats();
  const int64_t faults = page_faults();
  const int64_t copies = kernels::contiguous_bytes();
  // Waiting for a device takes time itself: there a group of steps is measured at once.
  const int64_t group = cuda ? std::max<int64_t>(1, o.steps / 7) : 1;
  std::vector<double> times;
  for (int64_t i = 0; i + group <= o.steps; i += group) times.push_back(step.time(group));
  std::sort(times.begin(), times.end());
  const double median = times[times.size() / 2];
  const auto steps = static_cast<double>(times.size()) * static_cast<double>(group);
  const AllocatorStats after = allocator(step.device).stats();
  const int64_t graph_nodes = step.on_device != nullptr ? step.on_device->graph_nodes() : 0;
  const std::string note = step.on_device != nullptr ? step.on_device->take_note() : "";
  const auto per_step = [&](int64_t now, int64_t then) {
    return static_cast<double>(now - then) / steps;
  };
  const double calls = per_step(after.system_calls, before.system_calls);
  const double page_faults_each = per_step(page_faults(), faults);
  const double copied = per_step(kernels::contiguous_bytes(), copies);

  const bool profiled = o.profile || !cuda;
  const int64_t profile_length = cuda ? std::min<int64_t>(o.steps, 5) : o.steps;
  const Profile profile = profiled ? profile_steps(step, profile_length) : Profile{};

  if (o.json) {
    Json answer = {{"ms", median * 1e3},
                   {"ms_min", times.front() * 1e3},
                   {"ms_max", times.back() * 1e3},
                   {"gflop", gflop},
                   {"units_per_second", static_cast<double>(step.units) / median},
                   {"peak_bytes", after.peak},
                   {"reserved_bytes", after.reserved}};
    for (const auto& [name, seconds] : profile.groups) {
      answer["shares"][name] = seconds / profile.total;
    }
    fmt::print("{}\n", answer.dump());
    return 0;
  }
  fmt::print("{}: {} parameters, {}\n", config.name, step.model->parameter_count(),
             cuda ? fmt::format("{} in {}, {}", step.device, config.train.precision,
                                graph_nodes > 0 ? fmt::format("a graph of {} nodes", graph_nodes)
                                                : "no graph")
                  : fmt::format("{} threads", num_threads()));
  if (!note.empty() && graph_nodes == 0) fmt::print("{}\n", note);
  fmt::print("step: median {:.2f} ms ({:.2f} to {:.2f}), {:.0f} {}/s, {:.1f} GFLOP/s in products\n",
             median * 1e3, times.front() * 1e3, times.back() * 1e3,
             static_cast<double>(step.units) / median, step.task->unit(), gflop / median);
  if (profiled) print_profile(profile, static_cast<double>(profile_length));
  fmt::print(
      "\nper step: {:.1f} calls for memory, {:.1f} page faults, {:.0f} bytes copied to make "
      "contiguous\n",
      calls, page_faults_each, copied);
  fmt::print("peak memory of tensors: {:.1f} MB, {:.1f} MB reserved\n",
             static_cast<double>(after.peak) / 1e6, static_cast<double>(after.reserved) / 1e6);
  return 0;
}

void add(Command app) {
  Command bench = app.add_subcommand("bench", "measure speed");
  bench.require_subcommand();
  add_bench_generate(bench);
  auto o = std::make_shared<Options>();
  Command command = bench.add_subcommand("step", "time a config's training step, op by op");
  command.add_option("config", o->config, "config file").required();
  command.add_option("--steps", o->steps, "how many steps to time (default: 30)").range(1, 100000);
  command.add_option("--set", o->set, "change the config: --set train.batch=64").allow_extra_args();
  command.add_option("--threads", o->threads, "CPU threads (default: all)").range(1, 1024);
  command.add_flag("--profile", o->profile,
                   "time every operation on a device too (always on the CPU)");
  command.add_flag("--json", o->json, "print the result as JSON");
  command.callback([o] { set_exit_code(run(*o)); });
}

const RegisterCommand row{"bench", add};

}  // namespace
}  // namespace tessera::cli
