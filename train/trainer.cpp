#include "tessera/train/trainer.h"

#include <chrono>
#include <cmath>
#include <fstream>

#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/core/allocator.h"
#include "tessera/core/deterministic.h"
#include "tessera/core/file.h"
#include "tessera/core/kernels/gemm.h"
#include "tessera/core/parallel.h"
#include "tessera/core/random.h"
#include "tessera/data/loader.h"
#include "tessera/data/tokenizer.h"
#include "tessera/data/utf8.h"
#include "tessera/inference/generate.h"
#include "tessera/train/checkpoint.h"
#include "tessera/train/device_step.h"
#include "tessera/train/ema.h"
#include "tessera/train/environment.h"
#include "tessera/train/evaluate.h"
#include "tessera/train/progress.h"
#include "tessera/train/run_log.h"
#include "tessera/train/signals.h"
#include "tessera/train/start_from.h"

namespace tessera {
namespace fs = std::filesystem;
namespace {

using Clock = std::chrono::steady_clock;
constexpr uint64_t kInitStep = ~uint64_t{0};  // random numbers of the initial weights

std::unique_ptr<Model> build_model(const RunConfig& config, const DataInfo& info,
                                   const fs::path& init) {
  RandomScope scope(static_cast<uint64_t>(config.seed), kInitStep);
  std::unique_ptr<Model> model = config.model.build(info);
  if (!init.empty()) start_from(*model, init);
  return model;
}

Json result_json(const TrainResult& result) {
  return {{"step", result.step},
          {"early_stop", result.end == TrainEnd::early_stop},
          {"metrics", result.metrics},
          {"unit", result.unit},
          {"units_per_second", result.units_per_second},
          {"peak_memory", result.peak_memory}};
}

class Trainer {
 public:
  Trainer(const RunConfig& config, const TrainOptions& options)
      : c_(config),
        options_(options),
        seed_(static_cast<uint64_t>(config.seed)),
        device_(device_from_name(config.device)),
        data_(config.data.build(DataContext{options.base, static_cast<uint64_t>(config.seed)})),
        task_(config.task.build()),
        model_(build_model(config, data_->info(), options.init)),
        parameters_(place(*model_, device_,
                          config.train.precision == "bf16" ? DType::bf16 : DType::f32,
                          config.train.no_decay)),
        optimizer_(config.train.optimizer.build(parameters_)),
        schedule_(config.train.schedule.build(config.train.steps)),
        loader_(*data_, Split::train,
                {.batch = config.train.batch,
                 .seed = static_cast<uint64_t>(config.seed),
                 .threads = static_cast<int>(config.train.loader_threads)}) {
    task_->check_model(*model_);
    if (c_.train.ema) ema_.emplace(parameters_, c_.train.ema->decay);
    if constexpr (kCuda) {
      if (device_.is_cuda()) device_step_ = make_device_step();
    }
  }

  TrainResult run() {
    prepare_folder();
    if (options_.resume) restore();
    RunLog log(options_.run, step_);
    progress_.emplace(step_, c_.train.steps);
    note(fmt::format("{}: {} parameters, {}", c_.name,
                     count_text(static_cast<double>(model_->parameter_count())),
                     device_.is_cpu() ? fmt::format("{} threads", num_threads())
                                      : fmt::format("{} in {}", device_, c_.train.precision)));
    if (step_ == 0 && !options_.init.empty()) evaluate_now(log);
    StopSignals signals;
    TrainEnd end = TrainEnd::finished;
    allocator(device_).reset_peak();
    const int64_t warm_up = step_ + (c_.train.steps - step_) / 10;
    while (step_ < c_.train.steps) {
      const auto start = Clock::now();
      if (device_step_ != nullptr) {
        update_on_device(log);
      } else {
        update(log);
      }
      const bool stop = StopSignals::requested();
      if (device_step_ != nullptr && (stop || at_boundary())) settle(log, true);
      if (step_ > warm_up) count_time(start);
      if (due(c_.train.eval_every) && step_ < c_.train.steps) evaluate_now(log);
      if (c_.train.sample && due(c_.train.sample->every)) write_sample();
      if (stale_ > 0 && c_.train.early_stop && stale_ >= c_.train.early_stop->patience) {
        end = TrainEnd::early_stop;
      } else if (stop) {
        end = TrainEnd::interrupted;
      }
      if (due(c_.train.checkpoint_every) || end != TrainEnd::finished) save();
      if (end != TrainEnd::finished) break;
    }
    return finish(log, end);
  }

 private:
  bool due(int64_t every) const { return every > 0 && step_ % every == 0; }

  LayerContext layer_context(int64_t step) const { return {.step = step, .steps = c_.train.steps}; }

  void note(const std::string& text) {
    if (!options_.quiet) progress_->note(text);
  }

  void prepare_folder() {
    const bool has_run = fs::exists(options_.run / "config.json");
    check(options_.resume || !has_run,
          "train: {} already holds a run; pass --resume to go on with it, or --run DIR for another "
          "folder",
          options_.run.string());
    std::error_code error;
    fs::create_directories(options_.run, error);
    check(!error, "train: {} cannot be made: {}", options_.run.string(), error.message());
    write_file_atomic(options_.run / "config.json", to_json(c_).dump(2) + "\n");
    write_file_atomic(options_.run / "environment.json", environment(device_).dump(2) + "\n");
    write_file_atomic(options_.run / "run.json",
                      RunCard::make(options_.base, *data_).dump(2) + "\n");
  }

  void restore() {
    const std::vector<int64_t> steps = checkpoint_steps(options_.run);
    if (steps.empty()) return;
    const fs::path folder = checkpoint_folder(options_.run, steps.back());
    const Checkpoint checkpoint = read_checkpoint(folder);
    try {
      load_full_state(*model_, parameters_, checkpoint.model);
      optimizer_->load_state(checkpoint.optimizer);
      if (ema_) ema_->load_state(checkpoint.ema);
    } catch (const Error& error) {
      fail("{}: {}", folder.string(), error.what());
    }
    read_state(checkpoint.state, folder);
    step_ = checkpoint.step;
    note_later_ = fmt::format("resumed at step {}", step_);
  }

  void read_state(const Json& state, const fs::path& folder) {
    try {
      loader_.seek({state.at("epoch").get<int64_t>(), state.at("batch").get<int64_t>()});
      stale_ = state.at("stale").get<int64_t>();
      if (state.contains("best")) best_ = state.at("best").get<double>();
    } catch (const Json::exception& error) {
      fail("{}: {}", (folder / "state.json").string(), error.what());
    }
  }

  // One update: forward and backward over the micro-batches, clipping, the optimizer, the average.
  void update(RunLog& log) {
    if (!note_later_.empty()) note(std::exchange(note_later_, ""));
    const auto start = Clock::now();
    RandomScope scope(seed_, static_cast<uint64_t>(step_));
    double loss = 0;
    int64_t units = 0;
    model_->train();
    for (int64_t i = 0; i < c_.train.accumulate; ++i) {
      const Batch batch = loader_.next();
      const Tensor value = training_loss(*task_, *model_, batch, layer_context(step_));
      loss += value.item() / static_cast<double>(c_.train.accumulate);
      guard(step_, loss, "loss");
      value.backward();
      units += task_->units(batch);
    }
    const double share = 1 / static_cast<double>(c_.train.accumulate);
    const double norm = gradient_norm(parameters_) * share;
    guard(step_, norm, "gradient norm");
    const double clip = c_.train.clip ? std::min(1.0, *c_.train.clip / (norm + 1e-6)) : 1.0;
    const double factor = schedule_->factor(step_);
    optimizer_->step(factor, clip * share);
    model_->zero_grad();
    if (ema_) ema_->update();
    ++step_;
    measure_speed(start, units);
    report(log, {step_ - 1, loss, norm, factor});
  }

  // The same on a device, which is left to itself: what came of earlier steps is reported.
  void update_on_device(RunLog& log) {
    if (!note_later_.empty()) note(std::exchange(note_later_, ""));
    const auto start = Clock::now();
    std::vector<Batch> batches;
    int64_t units = 0;
    for (int64_t i = 0; i < c_.train.accumulate; ++i) {
      batches.push_back(loader_.next());
      units += task_->units(batches.back());
    }
    device_step_->run(step_, schedule_->factor(step_), batches);
    ++step_;
    if (const std::string text = device_step_->take_note(); !text.empty()) note(text);
    settle(log, false);
    measure_speed(start, units);
  }

  void settle(RunLog& log, bool all) {
    for (const DeviceStep::Result& r : device_step_->results(all)) {
      guard(r.step, r.loss, "loss");
      guard(r.step, r.norm, "gradient norm");
      report(log, r);
    }
  }

  // Whether something that looks at the weights follows this step.
  bool at_boundary() const {
    return step_ == c_.train.steps || due(c_.train.eval_every) || due(c_.train.checkpoint_every) ||
           (c_.train.sample && due(c_.train.sample->every));
  }

  std::unique_ptr<DeviceStep> make_device_step() {
    const bool capturable = model_->all_capturable();
    check(capturable || c_.train.cuda_graph != "on",
          "train.cuda_graph: the model's steps differ from one another and cannot be recorded; use "
          "\"auto\" or \"off\"");
    return DeviceStep::make(*model_,
                            [this](const Batch& batch, int64_t step) {
                              return training_loss(*task_, *model_, batch, layer_context(step));
                            },
                            parameters_, *optimizer_, ema_ ? &*ema_ : nullptr,
                            {.device = device_,
                             .seed = seed_,
                             .clip = c_.train.clip,
                             .accumulate = c_.train.accumulate,
                             .cuda_graph = capturable ? c_.train.cuda_graph : "off"});
  }

  void count_time(Clock::time_point start) {
    seconds_ += std::chrono::duration<double>(Clock::now() - start).count();
    timed_units_ += step_units_;
  }

  void measure_speed(Clock::time_point start, int64_t units) {
    step_units_ = units;
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    const double speed = static_cast<double>(units) / seconds;
    speed_ = speed_ == 0 ? speed : 0.95 * speed_ + 0.05 * speed;
  }

  void guard(int64_t step, double value, const char* what) const {
    if (std::isfinite(value)) return;
    const std::vector<int64_t> steps = checkpoint_steps(options_.run);
    fail("train: the {} became {} at step {}; {}; lower train.optimizer.lr or set train.clip", what,
         value, step + 1,
         steps.empty() ? "there is no checkpoint before it"
                       : fmt::format("the last good checkpoint is {}",
                                     checkpoint_folder(options_.run, steps.back()).string()));
  }

  void report(RunLog& log, const DeviceStep::Result& r) {
    last_loss_ = r.loss;
    const int64_t step = r.step + 1;
    const double lr = optimizer_->lr() * r.factor;
    if (!options_.quiet) progress_->step(step, r.loss, lr, speed_, task_->unit());
    if (step % c_.train.log_every != 0 && step != c_.train.steps) return;
    log.write(step, {{"train_loss", r.loss},
                     {"lr", lr},
                     {"grad_norm", r.norm},
                     {"memory_mb", static_cast<double>(allocator(device_).stats().peak) / 1e6},
                     {task_->unit() + "_per_second", speed_}});
  }

  std::map<std::string, double> measure(Split split, int64_t batches) {
    if (ema_) ema_->swap();
    const auto metrics = evaluate(
        *model_, *task_, *data_, split,
        {.batch = c_.train.eval_batch.value_or(c_.train.batch), .batches = batches, .seed = seed_});
    if (ema_) ema_->swap();
    return metrics;
  }

  std::map<std::string, double> evaluate_now(RunLog& log) {
    std::map<std::string, double> named;
    std::string text = fmt::format("step {}:", step_);
    for (const auto& [name, value] : measure(Split::validation, c_.train.eval_batches)) {
      named["val_" + name] = value;
      const bool detail = name.find('.') != std::string::npos;  // of one layer
      if (!detail) text += fmt::format("  val_{} {:.4f}", name, value);
    }
    note(text);
    log.write(step_, named);
    log.flush();
    const double now = named.at("val_" + task_->headline());
    const double delta = c_.train.early_stop ? c_.train.early_stop->min_delta : 0;
    const bool better =
        !best_ || (task_->smaller_is_better() ? now < *best_ - delta : now > *best_ + delta);
    stale_ = better ? 0 : stale_ + 1;
    if (better) best_ = now;
    return named;
  }

  void save() {
    Checkpoint checkpoint;
    checkpoint.step = step_;
    checkpoint.model = full_state(*model_, parameters_);
    checkpoint.optimizer = optimizer_->state();
    if (ema_) checkpoint.ema = ema_->state();
    const LoaderPosition at = loader_.position();
    checkpoint.state["epoch"] = at.epoch;
    checkpoint.state["batch"] = at.step;
    checkpoint.state["stale"] = stale_;
    if (best_) checkpoint.state["best"] = *best_;
    write_checkpoint(options_.run, checkpoint);
    prune_checkpoints(options_.run, c_.train.keep_checkpoints);
  }

  void write_sample() {
    auto* lm = dynamic_cast<LanguageModel*>(model_.get());
    const Tokenizer* tokenizer = data_->tokenizer();
    if (lm == nullptr || tokenizer == nullptr) return;
    const SampleConfig& s = *c_.train.sample;
    std::vector<int64_t> tokens = tokenizer->encode(s.prompt);
    model_->eval();
    generate(*lm, tokens,
             {.tokens = s.tokens, .sampling = {.temperature = s.temperature}, .seed = seed_},
             [&tokens](int64_t token) {
               tokens.push_back(token);
               return true;
             });
    const std::string text = tokenizer->decode(tokens);
    fs::create_directories(options_.run / "samples");
    write_file_atomic(options_.run / "samples" / fmt::format("step-{}.txt", step_), text + "\n");
    note(fmt::format("sample at step {}:\n{}", step_, text));
  }

  TrainResult finish(RunLog& log, TrainEnd end) {
    TrainResult result{
        .end = end,
        .step = step_,
        .metrics = {},
        .unit = task_->unit(),
        .units_per_second = seconds_ > 0 ? static_cast<double>(timed_units_) / seconds_ : 0,
        .peak_memory = allocator(device_).stats().peak};
    if (end == TrainEnd::interrupted) {
      note(fmt::format("interrupted: step {} is saved; go on with --resume", step_));
    } else {
      result.metrics = evaluate_now(log);
      if (std::isfinite(last_loss_)) result.metrics["train_loss"] = last_loss_;
      if (data_->size(Split::test) > 0 && data_->size(Split::test) < kEndless) {
        std::map<std::string, double> named;
        for (const auto& [name, value] : measure(Split::test, 0)) named["test_" + name] = value;
        log.write(step_, named);
        result.metrics.insert(named.begin(), named.end());
      }
      save();
      if (c_.train.sample) write_sample();
      write_file_atomic(options_.run / "result.json", result_json(result).dump(2) + "\n");
      const AllocatorStats stats = allocator(device_).stats();
      note(fmt::format("finished: {} steps, peak memory of tensors {} MB, {} MB reserved on {}",
                       step_, count_text(static_cast<double>(stats.peak) / 1e6),
                       count_text(static_cast<double>(stats.reserved) / 1e6), device_));
    }
    log.flush();
    progress_->finish();
    return result;
  }

  const RunConfig& c_;
  const TrainOptions& options_;
  uint64_t seed_;
  Device device_;
  std::unique_ptr<Dataset> data_;
  std::unique_ptr<Task> task_;
  std::unique_ptr<Model> model_;
  std::vector<Parameter> parameters_;
  std::unique_ptr<Optimizer> optimizer_;
  std::unique_ptr<Schedule> schedule_;
  Loader loader_;
  std::optional<Ema> ema_;
  std::unique_ptr<DeviceStep> device_step_;  // null on the CPU
  std::optional<Progress> progress_;
  int64_t step_ = 0;
  int64_t stale_ = 0;           // evaluations since the best one
  std::optional<double> best_;  // headline metric
  double last_loss_ = NAN;
  double speed_ = 0;
  double seconds_ = 0;  // of the steps after warm-up
  int64_t timed_units_ = 0;
  int64_t step_units_ = 0;
  std::string note_later_;
};

}  // namespace

std::optional<TrainResult> read_result(const fs::path& run) {
  const fs::path file = run / "result.json";
  if (!fs::exists(file)) return std::nullopt;
  const Json json = read_json(file);
  TrainResult result;
  try {
    result.step = json.at("step").get<int64_t>();
    if (json.at("early_stop").get<bool>()) result.end = TrainEnd::early_stop;
    for (const auto& [name, value] : json.at("metrics").items()) {
      result.metrics[name] = value.is_number() ? value.get<double>() : NAN;
    }
    result.unit = json.at("unit").get<std::string>();
    result.units_per_second = json.at("units_per_second").get<double>();
    result.peak_memory = json.at("peak_memory").get<int64_t>();
  } catch (const Json::exception& error) {
    fail("{}: {}", file.string(), error.what());
  }
  return result;
}

TrainResult train(const RunConfig& config, const TrainOptions& options) {
  const Device device = device_from_name(config.device);
  check(!device.is_cpu() || config.train.precision == "f32",
        "train.precision: \"{}\" needs a CUDA device; on the CPU use \"f32\"",
        config.train.precision);
  flush_denormals();
  kernels::set_tf32(config.train.precision == "tf32");
  set_deterministic(config.train.deterministic);
  return Trainer(config, options).run();
}

ExpectReport check_expectations(const RunConfig& config,
                                const std::map<std::string, double>& metrics) {
  ExpectReport report;
  for (const auto& [name, expect] : config.expect) {
    const auto found = metrics.find(name);
    const bool known = found != metrics.end();
    const double value = known ? found->second : NAN;
    const bool ok =
        known && (!expect.min || value >= *expect.min) && (!expect.max || value <= *expect.max);
    report.ok = report.ok && ok;
    report.text += fmt::format("{} {} = {:.4f}, expected{}{}\n", ok ? "ok  " : "FAIL", name, value,
                               expect.min ? fmt::format(" >= {}", *expect.min) : "",
                               expect.max ? fmt::format(" <= {}", *expect.max) : "");
  }
  return report;
}

}  // namespace tessera
