// tessera bench generate CONFIG [--batch B]… [--prompt N] [--tokens N] [--set a.b=c …] [--json]
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "tessera/cli/bench.h"
#include "tessera/cli/command.h"
#include "tessera/config/json.h"
#include "tessera/core/kernels/gemm.h"
#include "tessera/core/parallel.h"
#include "tessera/core/random.h"
#include "tessera/inference/generate.h"
#include "tessera/train/config.h"

namespace tessera::cli {
namespace {

struct Options {
  std::string config;
  std::vector<std::string> set;
  std::vector<int64_t> batches = {1, 64};
  int64_t prompt = 128;
  int64_t tokens = 256;
  int64_t repeats = 3;
  std::string device;
  std::string precision;
  int threads = 0;
  bool no_graph = false;
  bool paged = false;
  bool json = false;
};

struct Row {
  int64_t batch;
  const char* choice;
  double prefill_ms, step_ms, tokens_per_second, seconds;
};

std::unique_ptr<Model> build_model(const RunConfig& c, const std::filesystem::path& base) {
  const auto seed = static_cast<uint64_t>(c.seed);
  RandomScope scope(seed);
  kernels::set_tf32(c.train.precision == "tf32");
  auto model = c.model.build(c.data.build(DataContext{base, seed})->info());
  model->to(device_from_name(c.device));
  if (c.train.precision == "bf16") model->parameters_to(DType::bf16);
  model->eval();
  return model;
}

// The median run of some, after one that is not counted: prompts of random tokens.
Row measure(LanguageModel& model, int64_t batch, const char* choice,
            const SamplingOptions& sampling, const Options& o) {
  Generator random(5);
  std::vector<std::vector<int64_t>> prompts(static_cast<size_t>(batch));
  for (auto& prompt : prompts) {
    for (int64_t i = 0; i < o.prompt; ++i) prompt.push_back(random.below(model.head().size(0)));
  }
  const GenerateOptions options{.tokens = o.tokens,
                                .sampling = sampling,
                                .page_size = o.paged ? 64 : 0,
                                .graph = !o.no_graph};
  const auto run = [&] {
    return generate(model, prompts, options, [](size_t, int64_t) { return true; });
  };
  run();
  std::vector<GenerateTimes> times;
  for (int64_t i = 0; i < o.repeats; ++i) times.push_back(run());
  std::sort(times.begin(), times.end(), [](const GenerateTimes& a, const GenerateTimes& b) {
    return a.prefill_seconds + a.decode_seconds < b.prefill_seconds + b.decode_seconds;
  });
  const GenerateTimes& t = times[times.size() / 2];
  const double seconds = t.prefill_seconds + t.decode_seconds;
  return {batch,
          choice,
          1e3 * t.prefill_seconds,
          1e3 * t.decode_seconds / static_cast<double>(std::max<int64_t>(1, o.tokens - 1)),
          static_cast<double>(batch * o.tokens) / seconds,
          seconds};
}

void print(const Row& r, bool json) {
  if (json) {
    const Json line = {{"variant", "tessera"}, {"batch", r.batch},
                       {"choice", r.choice},   {"prefill_ms", r.prefill_ms},
                       {"step_ms", r.step_ms}, {"tokens_per_second", r.tokens_per_second}};
    fmt::print("{}\n", line.dump());
  } else {
    fmt::print("{:<18} {:>5} {:<8} {:>11.2f} {:>9.3f} {:>10.0f}\n", "tessera", r.batch, r.choice,
               r.prefill_ms, r.step_ms, r.tokens_per_second);
  }
  std::fflush(stdout);
}

int run(const Options& o) {
  namespace fs = std::filesystem;
  Json json = read_json(o.config);
  for (const std::string& assignment : o.set) set_by_path(json, assignment);
  if (!o.device.empty()) json["device"] = o.device;
  if (!o.precision.empty()) json["train"]["precision"] = o.precision;
  const auto config = from_json<RunConfig>(json);
  if (o.threads > 0) set_num_threads(o.threads);
  const Device device = device_from_name(config.device);
  check(device.is_cuda() || config.train.precision == "f32",
        "bench generate: {} needs a CUDA device; on the CPU use --precision f32",
        config.train.precision);
  const auto model = build_model(config, fs::absolute(o.config).parent_path());
  auto* lm = dynamic_cast<LanguageModel*>(model.get());
  check(lm != nullptr, "bench generate: {} describes no language model", o.config);
  check(o.prompt + o.tokens <= lm->context_length(),
        "bench generate: {} + {} tokens are more than the context of {}", o.prompt, o.tokens,
        lm->context_length());
  if (!o.json) {
    fmt::print("{}: {} parameters on {} in {}, {} tokens after {}\n", config.name,
               model->parameter_count(), device, config.train.precision, o.tokens, o.prompt);
    fmt::print("{:<18} {:>5} {:<8} {:>11} {:>9} {:>10}\n", "variant", "batch", "choice",
               "prefill ms", "ms/step", "tokens/s");
  }
  for (const int64_t batch : o.batches) {
    print(measure(*lm, batch, "greedy", {.temperature = 0}, o), o.json);
    print(measure(*lm, batch, "top-k", {.top_k = 50}, o), o.json);
  }
  return 0;
}

}  // namespace

void add_bench_generate(Command bench) {
  auto o = std::make_shared<Options>();
  Command command =
      bench.add_subcommand("generate", "time the generation of a config's model, untrained");
  command.add_option("config", o->config, "config file").required();
  command
      .add_option("--batch", o->batches, "sequences at a time; may be repeated (default: 1 and 64)")
      .allow_extra_args(false)
      .range(1, 1 << 15);
  command.add_option("--prompt", o->prompt, "tokens of a prompt (default: 128)").range(1, 1 << 30);
  command.add_option("--tokens", o->tokens, "tokens to add (default: 256)").range(1, 1 << 30);
  command.add_option("--repeats", o->repeats, "runs of which the median counts (default: 3)")
      .range(1, 1000);
  command.add_option("--set", o->set, "change the config: --set model.depth=2").allow_extra_args();
  command.add_option("--device", o->device, "cpu or cuda:0 (default: as the config says)");
  command.add_option("--precision", o->precision,
                     "f32, tf32 or bf16 (default: as the config says)");
  command.add_option("--threads", o->threads, "CPU threads (default: all)").range(1, 1024);
  command.add_flag("--no-graph", o->no_graph, "on CUDA: every operation by itself");
  command.add_flag("--paged", o->paged, "keys and values in pages of 64 tokens");
  command.add_flag("--json", o->json, "print one JSON object per row");
  command.callback([o] { set_exit_code(run(*o)); });
}

}  // namespace tessera::cli
