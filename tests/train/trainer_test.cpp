#include "tessera/train/trainer.h"

#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <thread>

#include "tessera/core/allocator.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/parallel.h"
#include "tessera/models/run_folder.h"
#include "tessera/tests/core/temporary_folder.h"
#include "tessera/train/checkpoint.h"

using namespace tessera;
namespace fs = std::filesystem;

namespace {

RunConfig config(const std::string& changes = "{}") {
  Json json = Json::parse(R"({
    "name": "tiny", "task": "language_modeling",
    "model": {"type": "transformer", "width": 16, "depth": 1, "heads": 2, "dropout": 0.1},
    "data": {"type": "grammar", "tokenizer": "char", "context": 16},
    "train": {"steps": 12, "batch": 4, "optimizer": {"type": "adamw", "lr": 1e-2}, "clip": 1.0,
              "eval_every": 5, "eval_batches": 2, "checkpoint_every": 4, "keep_checkpoints": 9,
              "ema": {"decay": 0.9}, "log_every": 1}})");
  json.merge_patch(Json::parse(changes));
  return from_json<RunConfig>(json);
}

TrainResult run(const RunConfig& c, const fs::path& folder, bool resume = false) {
  return train(c, {.run = folder, .base = ".", .resume = resume, .quiet = true});
}

std::vector<float> weights(const fs::path& run, int64_t step) {
  std::vector<float> all;
  for (const char* file : {"model.safetensors", "ema.safetensors", "optimizer.safetensors"}) {
    for (const auto& [name, tensor] : read_tensors(checkpoint_folder(run, step) / file)) {
      const auto values = tensor.to_vector<float>();
      all.insert(all.end(), values.begin(), values.end());
    }
  }
  return all;
}

}  // namespace

TEST_CASE("training lowers the loss and leaves a whole run folder behind") {
  tessera_tests::TemporaryFolder folder;
  const TrainResult result = run(config(R"({"train": {"steps": 60}})"), folder.path());
  CHECK(result.end == TrainEnd::finished);
  CHECK(result.metrics.at("val_loss") < 2.9);
  CHECK(result.metrics.contains("val_perplexity"));
  for (const char* file :
       {"config.json", "run.json", "metrics.jsonl", "checkpoints/step-60/model.safetensors",
        "checkpoints/step-60/optimizer.safetensors", "checkpoints/step-60/state.json"}) {
    CHECK(fs::exists(folder / file));
  }
  const auto model = RunFolder(folder.path()).load_model();
  CHECK_FALSE(model->training());
}

TEST_CASE(
    "a run that stops anywhere and resumes ends with the same bits, with 1 and with 2 threads") {
  const int threads = num_threads();
  std::vector<float> expected;
  for (int count : {1, 2}) {
    set_num_threads(count);
    tessera_tests::TemporaryFolder straight;
    run(config(), straight.path());
    if (expected.empty()) expected = weights(straight.path(), 12);
    CHECK(weights(straight.path(), 12) == expected);
    for (int64_t stop : {4, 8}) {
      tessera_tests::TemporaryFolder broken;
      run(config(), broken.path());
      for (int64_t step : checkpoint_steps(broken.path())) {  // as if killed after step `stop`
        if (step > stop) fs::remove_all(checkpoint_folder(broken.path(), step));
      }
      fs::create_directories(broken / "checkpoints/step-12.tmp");  // half-written
      run(config(), broken.path(), true);
      CHECK(weights(broken.path(), 12) == expected);
    }
  }
  set_num_threads(threads);
}

TEST_CASE("accumulating halves of a batch gives the gradient of the whole") {
  tessera_tests::TemporaryFolder a;
  tessera_tests::TemporaryFolder b;
  const char* base = R"({"model": {"dropout": 0}, "data": {"context": 8},
                         "train": {"steps": 1, "batch": 4, "clip": 1e9, "ema": null}})";
  run(config(base), a.path());
  RunConfig halves = config(base);
  halves.train.batch = 2;
  halves.train.accumulate = 2;
  run(halves, b.path());
  const auto x = read_tensors(checkpoint_folder(a.path(), 1) / "optimizer.safetensors");
  const auto y = read_tensors(checkpoint_folder(b.path(), 1) / "optimizer.safetensors");
  for (size_t i = 0; i < x.size(); ++i) {
    const auto p = x[i].second.to_vector<double>();
    const auto q = y[i].second.to_vector<double>();
    for (size_t k = 0; k < p.size(); ++k) CHECK(p[k] == doctest::Approx(q[k]).epsilon(1e-3));
  }
}

TEST_CASE("a loss that is not finite stops with the step and the last good checkpoint") {
  tessera_tests::TemporaryFolder folder;
  std::string message;
  try {
    run(config(R"({"train": {"optimizer": {"lr": 1e30}, "clip": null, "checkpoint_every": 1}})"),
        folder.path());
  } catch (const Error& error) {
    message = error.what();
  }
  CHECK(message.find("at step") != std::string::npos);
  CHECK(message.find("the last good checkpoint is") != std::string::npos);
  CHECK(message.find("train.optimizer.lr") != std::string::npos);
}

TEST_CASE("a folder that holds a run is refused unless resuming") {
  tessera_tests::TemporaryFolder folder;
  run(config(R"({"train": {"steps": 2}})"), folder.path());
  CHECK_THROWS_WITH_AS(run(config(), folder.path()), doctest::Contains("already holds a run"),
                       Error);
}

TEST_CASE("a run that starts from another's weights goes on where that one ended") {
  tessera_tests::TemporaryFolder first, second, third;
  const RunConfig plain = config(R"({"train": {"ema": null}})");
  run(plain, first.path());
  const fs::path weights = checkpoint_folder(first.path(), 12) / "model.safetensors";
  const RunConfig longer = config(R"({"train": {"ema": null, "steps": 2},
    "model": {"attention": {"type": "masformer", "spans": ["block:4"]}}, "data": {"context": 40}})");
  train(longer, {.run = second.path(), .base = ".", .init = first.path(), .quiet = true});
  std::ifstream metrics(fs::path(second.path()) / "metrics.jsonl");
  std::string line;
  std::getline(metrics, line);
  const Json start = Json::parse(line);
  CHECK(start["step"] == 0);
  CHECK(start["val_loss"].get<double>() < 3.1);  // a fresh model has ln 33 = 3.5

  const Json again = Json::parse(R"({"train": {"ema": null, "steps": 1, "optimizer": {"lr": 0}}})");
  RunConfig still = config(again.dump());
  train(still, {.run = third.path(), .base = ".", .init = weights, .quiet = true});
  const auto before = read_tensors(weights);
  const auto after = read_tensors(checkpoint_folder(third.path(), 1) / "model.safetensors");
  for (size_t i = 0; i < before.size(); ++i) {
    CHECK(before[i].second.to_vector<float>() == after[i].second.to_vector<float>());
  }
}

TEST_CASE("weights that do not fit are refused by name, positions are repeated") {
  tessera_tests::TemporaryFolder first, other;
  run(config(R"({"train": {"ema": null, "steps": 1}})"), first.path());
  const auto from = [&](const std::string& changes, const fs::path& init) {
    train(config(changes), {.run = other.path(), .base = ".", .init = init, .quiet = true});
  };
  CHECK_THROWS_WITH_AS(from(R"({"model": {"width": 32}})", first.path()),
                       doctest::Contains("embedding.weight\" has shape"), Error);
  CHECK_THROWS_WITH_AS(from(R"({"model": {"depth": 2}})", first.path()),
                       doctest::Contains("is missing"), Error);
  CHECK_THROWS_WITH_AS(from("{}", fs::path(first.path()) / "nothing"),
                       doctest::Contains("there is no such file or folder"), Error);
  CHECK_THROWS_WITH_AS(from("{}", other.path()), doctest::Contains("not a run folder"), Error);
  const auto table = [](const fs::path& run_folder, int64_t step) {
    for (const auto& [name, x] :
         read_tensors(checkpoint_folder(run_folder, step) / "model.safetensors")) {
      if (name == "positions.weight") return x.to_vector<float>();
    }
    return std::vector<float>();
  };
  from(R"({"data": {"context": 40}, "train": {"ema": null, "steps": 1, "optimizer": {"lr": 0}}})",
       first.path());
  const auto shorter = table(first.path(), 1), longer = table(other.path(), 1);
  REQUIRE(shorter.size() == 16 * 16);
  REQUIRE(longer.size() == 40 * 16);
  for (size_t i = 0; i < longer.size(); ++i) CHECK(longer[i] == shorter[i % shorter.size()]);
}

TEST_CASE("SIGTERM finishes the step, saves and says so") {
  tessera_tests::TemporaryFolder folder;
  RunConfig c = config(R"({"train": {"steps": 100000, "eval_every": 0, "checkpoint_every": 0}})");
  std::atomic<bool> done{false};
  std::thread killer([&] {
    while (!fs::exists(folder / "metrics.jsonl"))
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    if (!done) std::raise(SIGTERM);
  });
  const TrainResult result = run(c, folder.path());
  done = true;
  killer.join();
  CHECK(result.end == TrainEnd::interrupted);
  CHECK(checkpoint_steps(folder.path()) == std::vector<int64_t>{result.step});
}

TEST_CASE("early stopping ends a run that no longer improves") {
  tessera_tests::TemporaryFolder folder;
  const TrainResult result = run(
      config(
          R"({"train": {"steps": 500, "eval_every": 2, "optimizer": {"lr": 0}, "early_stop": {"patience": 3}}})"),
      folder.path());
  CHECK(result.end == TrainEnd::early_stop);
  CHECK(result.step == 8);
}

TEST_CASE("metrics of an interrupted run continue without doubled steps") {
  tessera_tests::TemporaryFolder folder;
  run(config(), folder.path());
  fs::remove_all(checkpoint_folder(folder.path(), 12));
  run(config(), folder.path(), true);
  std::ifstream in(folder / "metrics.jsonl");
  std::vector<int64_t> steps;
  for (std::string line; std::getline(in, line);) {
    const Json json = Json::parse(line);
    if (json.contains("train_loss")) steps.push_back(json["step"].get<int64_t>());
  }
  REQUIRE(steps.size() == 12);
  for (size_t i = 0; i < steps.size(); ++i) CHECK(steps[i] == static_cast<int64_t>(i) + 1);
}

TEST_CASE("a steady step asks the system for no memory and copies nothing to make it contiguous") {
  tessera_tests::TemporaryFolder a;
  tessera_tests::TemporaryFolder b;
  const char* base =
      R"({"train": {"eval_every": 0, "checkpoint_every": 0, "steps": 3, "ema": null}})";
  run(config(base), a.path());
  const int64_t calls = allocator({}).stats().system_calls;
  run(config(base), b.path());
  RunConfig longer = config(base);
  longer.train.steps = 30;
  tessera_tests::TemporaryFolder c;
  run(longer, c.path());
  CHECK(allocator({}).stats().system_calls - calls <= 2);
}

TEST_CASE("expectations are compared with what came out") {
  const RunConfig c =
      config(R"({"expect": {"val_loss": {"max": 2}, "val_accuracy": {"min": 0.5}}})");
  CHECK(check_expectations(c, {{"val_loss", 1.9}, {"val_accuracy", 0.6}}).ok);
  const ExpectReport report = check_expectations(c, {{"val_loss", 2.1}, {"val_accuracy", 0.6}});
  CHECK_FALSE(report.ok);
  CHECK(report.text.find("FAIL val_loss = 2.1000, expected <= 2") != std::string::npos);
  CHECK_FALSE(check_expectations(c, {{"val_loss", 1.0}}).ok);
}

TEST_CASE("bf16 on the CPU is refused with what to change") {
  tessera_tests::TemporaryFolder folder;
  CHECK_THROWS_WITH_AS(run(config(R"({"train": {"precision": "bf16"}})"), folder.path()),
                       doctest::Contains("train.precision"), Error);
}
