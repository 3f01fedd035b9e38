// The config of a run, as it stands in a file.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "tessera/config/fields.h"
#include "tessera/data/dataset.h"
#include "tessera/models/model.h"
#include "tessera/train/optimizer.h"
#include "tessera/train/schedule.h"
#include "tessera/train/task.h"

namespace tessera {

struct EarlyStopConfig {
  int64_t patience = 5;
  double min_delta = 0;
  TESSERA_FIELDS(f)
  {
    f("patience", patience, "evaluations without improvement before stopping").min(1);
    f("min_delta", min_delta, "what counts as an improvement").min(0);
  }
};

struct EmaConfig {
  double decay = 0.999;
  TESSERA_FIELDS(f)
  { f("decay", decay, "share of the average that is kept per step").min(0).below(1); }
};

struct SampleConfig {
  int64_t every = 0;
  std::string prompt = "\n";
  int64_t tokens = 200;
  double temperature = 0.8;
  TESSERA_FIELDS(f)
  {
    f("every", every, "steps between samples written to the run; 0: only at the end").min(0);
    f("prompt", prompt, "what the sample continues");
    f("tokens", tokens, "length of a sample").min(1).max(1 << 24);
    f("temperature", temperature, "of sampling").min(0);
  }
};

struct TrainConfig {
  int64_t steps = 1000;
  int64_t batch = 32;
  int64_t accumulate = 1;
  Choice<Optimizer> optimizer{"adamw"};
  Choice<Schedule> schedule{"cosine"};
  std::optional<double> clip;
  std::string precision = "f32";
  int64_t eval_every = 0;
  int64_t eval_batches = 0;
  std::optional<int64_t> eval_batch;
  int64_t checkpoint_every = 0;
  int64_t keep_checkpoints = 2;
  std::vector<std::string> no_decay = {"class_token", "distillation_token", "positions"};
  std::optional<EarlyStopConfig> early_stop;
  std::optional<EmaConfig> ema;
  std::optional<SampleConfig> sample;
  int64_t log_every = 10;
  int64_t loader_threads = 0;
  std::string cuda_graph = "auto";
  bool deterministic = true;

  TESSERA_FIELDS(f)
  {
    f("steps", steps, "updates of the parameters").min(1);
    f("batch", batch, "elements per forward pass").min(1).max(1 << 24);
    f("accumulate", accumulate, "forward passes per update").min(1);
    f("optimizer", optimizer, "how parameters are updated");
    f("schedule", schedule, "how the learning rate changes");
    f("clip", clip, "largest global norm of the gradient; default: none").above(0);
    f("precision", precision, "of weights and activations, besides f32 masters; on the CPU f32")
        .one_of({"f32", "tf32", "bf16"});
    f("eval_every", eval_every, "steps between evaluations; 0: only at the end").min(0);
    f("eval_batches", eval_batches, "batches per evaluation; 0: the whole split").min(0);
    f("eval_batch", eval_batch, "elements per evaluation batch; default: batch")
        .min(1)
        .max(1 << 24);
    f("checkpoint_every", checkpoint_every, "steps between checkpoints; 0: only at the end").min(0);
    f("keep_checkpoints", keep_checkpoints, "how many of the newest checkpoints stay").min(1);
    f("no_decay", no_decay, "endings of parameter names without weight decay, besides vectors");
    f("early_stop", early_stop, "stop when evaluation no longer improves");
    f("ema", ema, "keep an exponential average of the weights and evaluate that");
    f("sample", sample, "text written to the run while it trains");
    f("log_every", log_every, "steps between lines of metrics").min(1);
    f("loader_threads", loader_threads, "threads that prepare batches; 0: in the training thread")
        .min(0)
        .max(64);
    f("cuda_graph", cuda_graph,
      "record a step once and replay it, on CUDA; auto: eager where that fails")
        .one_of({"auto", "on", "off"});
    f("deterministic", deterministic,
      "the same bits on every run; false lets products on CUDA race the library's algorithms, and "
      "sums of attention's gradients come in any order");
  }
};

struct ExpectConfig {
  std::optional<double> min;
  std::optional<double> max;
  TESSERA_FIELDS(f)
  {
    f("min", min, "least value");
    f("max", max, "largest value");
  }
};

struct RunConfig {
  std::string name = "run";
  int64_t seed = 1;
  std::string device = "cpu";
  Choice<Task> task;
  Choice<Model> model;
  Choice<Dataset> data;
  TrainConfig train;
  std::map<std::string, ExpectConfig> expect;

  TESSERA_FIELDS(f)
  {
    f("name", name, "of the run; its folder is runs/<name> unless said otherwise");
    f("seed", seed, "of all random numbers").min(0);
    f("device", device, "\"cpu\" or \"cuda:0\"");
    f("task", task, "what is learnt");
    f("model", model, "what learns");
    f("data", data, "what it learns from");
    f("train", train, "how it learns");
    f("expect", expect, "final metrics that `train --check` demands");
  }
};

// Reading and writing the whole config is compiled once, in config.cpp.
extern template RunConfig from_json<RunConfig>(const Json& json, const std::string& path);
extern template Json to_json<RunConfig, Json>(const RunConfig& config);

}  // namespace tessera
