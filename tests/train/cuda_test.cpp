// Training on CUDA beside training on the CPU.
#include <doctest/doctest.h>

#include <cmath>
#include <fstream>

#include "tessera/config/json.h"
#include "tessera/core/allocator.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/random.h"
#include "tessera/data/loader.h"
#include "tessera/inference/generate.h"
#include "tessera/models/run_folder.h"
#include "tessera/tests/core/temporary_folder.h"
#include "tessera/tests/support.h"
#include "tessera/train/config.h"
#include "tessera/train/device_step.h"
#include "tessera/train/ema.h"
#include "tessera/train/evaluate.h"
#include "tessera/train/trainer.h"

using namespace tessera;
namespace fs = std::filesystem;

namespace {

RunConfig config(const std::string& changes = "{}") {
  Json json = Json::parse(R"({
    "name": "tiny", "task": "language_modeling", "device": "cuda",
    "model": {"type": "transformer", "width": 32, "depth": 2, "heads": 2, "dropout": 0.1},
    "data": {"type": "grammar", "tokenizer": "char", "context": 16, "train_size": 5000,
             "validation_size": 400},
    "train": {"steps": 12, "batch": 4, "optimizer": {"type": "adamw", "lr": 1e-2}, "clip": 1.0,
              "eval_every": 6, "eval_batches": 2, "checkpoint_every": 4, "keep_checkpoints": 9,
              "ema": {"decay": 0.9}, "log_every": 1}})");
  json.merge_patch(Json::parse(changes));
  return from_json<RunConfig>(json);
}

const char* const kVision = R"({
  "task": "image_classification",
  "model": {"type": "vit", "patch": 7, "width": 32, "depth": 2, "heads": 2, "drop_path": 0.1},
  "data": {"type": "glyphs", "tokenizer": null, "context": null, "train_size": null,
           "validation_size": null}})";

std::vector<double> losses(const fs::path& run) {
  std::vector<double> list;
  std::ifstream in(run / "metrics.jsonl");
  for (std::string line; std::getline(in, line);) {
    const Json json = Json::parse(line);
    if (!json.contains("train_loss")) continue;
    CHECK(json["step"].get<size_t>() == list.size() + 1);
    list.push_back(json["train_loss"].get<double>());
  }
  return list;
}

std::vector<double> train_losses(const RunConfig& c) {
  tessera_tests::TemporaryFolder folder;
  train(c, {.run = folder.path(), .base = ".", .quiet = true});
  return losses(folder.path());
}

void check_close(const std::vector<double>& a, const std::vector<double>& b, double epsilon) {
  REQUIRE(a.size() == b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    CAPTURE(i);
    CHECK(a[i] == doctest::Approx(b[i]).epsilon(epsilon));
  }
}

std::vector<float> tensors_of(const fs::path& run, int64_t step) {
  std::vector<float> all;
  for (const char* file : {"model.safetensors", "ema.safetensors", "optimizer.safetensors"}) {
    for (const auto& [name, tensor] : read_tensors(checkpoint_folder(run, step) / file)) {
      const auto values = tensor.to_vector<float>();
      all.insert(all.end(), values.begin(), values.end());
    }
  }
  return all;
}

// The parts of a run, for steps by hand.
struct Parts {
  RunConfig c;
  std::unique_ptr<Dataset> data;
  std::unique_ptr<Task> task;
  std::unique_ptr<Model> model;
  std::vector<Parameter> parameters;
  std::unique_ptr<Optimizer> optimizer;
  Loader loader;
  std::unique_ptr<DeviceStep> step;

  explicit Parts(const RunConfig& config)
      : c(config),
        data(c.data.build(DataContext{".", 1})),
        task(c.task.build()),
        model(build()),
        parameters(
            place(*model, test::kGpu, c.train.precision == "bf16" ? DType::bf16 : DType::f32)),
        optimizer(c.train.optimizer.build(parameters)),
        loader(*data, Split::train, {.batch = c.train.batch}) {
    if constexpr (kCuda) {
      step = DeviceStep::make(*model,
                              [this](const Batch& batch, int64_t at) {
                                return training_loss(*task, *model, batch, {.step = at});
                              },
                              parameters, *optimizer, nullptr,
                              {.device = test::kGpu,
                               .clip = c.train.clip,
                               .accumulate = c.train.accumulate,
                               .cuda_graph = c.train.cuda_graph});
    }
  }

  std::unique_ptr<Model> build() {
    RandomScope scope(1, 1);
    return c.model.build(data->info());
  }

  std::vector<double> run(int64_t first, int64_t count) {
    for (int64_t i = first; i < first + count; ++i) {
      std::vector<Batch> batches;
      for (int64_t k = 0; k < c.train.accumulate; ++k) batches.push_back(loader.next());
      step->run(i, 1, batches);
    }
    std::vector<double> values;
    for (const auto& r : step->results(true)) values.insert(values.end(), {r.loss, r.norm});
    return values;
  }

  std::vector<float> weights() const {
    std::vector<float> all;
    for (const Parameter& p : parameters) {
      const auto values = p.weights().to_vector<float>();
      all.insert(all.end(), values.begin(), values.end());
    }
    return all;
  }
};

}  // namespace

TEST_SUITE("cuda") {
  TEST_CASE("a transformer and a ViT train on CUDA with the losses of the CPU") {
    if (!test::has_gpu()) return;
    for (const char* changes : {"{}", kVision}) {
      CAPTURE(changes);
      RunConfig c = config(changes);
      const auto cuda = train_losses(c);
      c.device = "cpu";
      check_close(cuda, train_losses(c), 2e-3);
    }
  }

  TEST_CASE("bf16 follows f32, and micro-batches add up") {
    if (!test::has_gpu()) return;
    RunConfig c = config(R"({"model": {"dropout": 0}, "train": {"optimizer": {"lr": 1e-3}}})");
    const auto full = train_losses(c);
    c.train.precision = "bf16";
    check_close(train_losses(c), full, 0.03);
    c.train.precision = "tf32";
    check_close(train_losses(c), full, 0.01);
    c.train.precision = "f32";
    c.train.batch = 2;
    c.train.accumulate = 2;
    check_close(train_losses(c), full, 2e-3);
  }

  TEST_CASE("a run that stops and resumes ends with the same bits, in f32 and bf16") {
    if (!test::has_gpu()) return;
    for (const char* precision : {"f32", "bf16"}) {
      CAPTURE(precision);
      RunConfig c = config();
      c.train.precision = precision;
      tessera_tests::TemporaryFolder straight;
      train(c, {.run = straight.path(), .base = ".", .quiet = true});
      tessera_tests::TemporaryFolder broken;
      train(c, {.run = broken.path(), .base = ".", .quiet = true});
      for (int64_t step : {8, 12}) fs::remove_all(checkpoint_folder(broken.path(), step));
      train(c, {.run = broken.path(), .base = ".", .resume = true, .quiet = true});
      CHECK(tensors_of(straight.path(), 12) == tensors_of(broken.path(), 12));
      CHECK(losses(straight.path()) == losses(broken.path()));
    }
  }

  TEST_CASE("checkpoints are f32 on the CPU, and a model goes on any device") {
    if (!test::has_gpu()) return;
    RunConfig c = config(R"({"train": {"precision": "bf16", "ema": null}})");
    tessera_tests::TemporaryFolder folder;
    train(c, {.run = folder.path(), .base = ".", .quiet = true});
    for (const auto& [name, tensor] :
         read_tensors(checkpoint_folder(folder.path(), 12) / "model.safetensors")) {
      CHECK(tensor.dtype() == DType::f32);
    }
    const RunFolder run(folder.path());
    const auto data = c.data.build(DataContext{".", 1});
    const auto task = c.task.build();
    std::vector<std::vector<int64_t>> texts;
    std::vector<double> values;
    for (Device device : {Device{}, test::kGpu}) {
      const auto model = run.load_model({}, device);
      CHECK(model->device() == device);
      values.push_back(
          evaluate(*model, *task, *data, Split::validation, {.batch = 4, .batches = 2}).at("loss"));
      std::vector<int64_t>& text = texts.emplace_back();
      generate(dynamic_cast<LanguageModel&>(*model), {1, 2, 3},
               {.tokens = 20, .sampling = {.temperature = 0}}, [&](int64_t token) {
                 text.push_back(token);
                 return true;
               });
    }
    CHECK(values[0] == doctest::Approx(values[1]).epsilon(1e-4));
    CHECK(texts[0] == texts[1]);
  }

  TEST_CASE("every optimizer's kernels follow the CPU, with odd sizes and missing gradients") {
    if (!test::has_gpu()) return;
    for (const std::string& type : registered_names(Optimizer::kKind)) {
      for (DType dtype : {DType::f32, DType::bf16, DType::f16}) {
        CAPTURE(type);
        CAPTURE(dtype);
        RandomScope scope(3);
        std::vector<Parameter> host, device;
        for (const Shape& shape : {Shape{33, 47}, Shape{7}, Shape{0, 4}, Shape{129, 4, 40},
                                   Shape{3, 5}, Shape{1}, Shape{20000}}) {
          const std::string name = fmt::format("p{}", host.size());
          const bool decay = shape.rank() >= 2;
          Tensor x = randn(shape);
          x.set_requires_grad();
          Tensor y = kernels::to_device(kernels::clone(x.detach()), test::kGpu);
          Tensor master;
          if (is_half(dtype)) {
            master = y;
            y = kernels::cast(y, dtype);
          }
          y.set_requires_grad();
          host.push_back({name, x, decay});
          device.push_back({name, y, decay, master});
        }
        const auto choice = from_json<Choice<Optimizer>>(
            Json::parse(fmt::format(R"({{"type": "{}", "weight_decay": 0.1}})", type)));
        const auto a = choice.build(host);
        const auto b = choice.build(device);
        for (int step = 0; step < 3; ++step) {
          for (size_t i = 0; i < host.size(); ++i) {
            if (i == 4 && step != 1) continue;
            // What the half type holds is the gradient of both.
            const Tensor g =
                kernels::cast(kernels::cast(randn(host[i].value.shape()), dtype), DType::f32);
            host[i].value.set_grad(g);
            device[i].value.set_grad(kernels::to_device(kernels::cast(g, dtype), test::kGpu));
          }
          CHECK(gradient_norm(device) == doctest::Approx(gradient_norm(host)).epsilon(1e-6));
          a->step(0.7, 0.5);
          b->step(0.7, 0.5);
          for (size_t i = 0; i < host.size(); ++i) {
            const auto p = host[i].value.to_vector<float>();
            const auto q = device[i].weights().to_vector<float>();
            double worst = 0;
            for (size_t k = 0; k < p.size(); ++k) {
              worst = std::max(worst, std::abs(double{p[k]} - q[k]) / (1 + std::abs(p[k])));
            }
            CAPTURE(i);
            CHECK(worst < 2e-6);
            const auto rounded = kernels::cast(device[i].weights(), dtype).to_vector<float>();
            CHECK(device[i].value.to_vector<float>() == rounded);
          }
          for (auto* list : {&host, &device}) {
            for (Parameter& p : *list) p.value.set_grad({});
          }
        }
      }
    }
  }

  TEST_CASE("the average of weights is that of the CPU") {
    if (!test::has_gpu()) return;
    const Parameter p{"w", full({5, 1001}, 1), true, {}};
    const Parameter q{"w", kernels::to_device(p.value, test::kGpu), true, {}};
    Ema a({p}, 0.9), b({q}, 0.9);
    kernels::copy(p.value, full({5, 1001}, 3));
    kernels::copy(q.value, p.value);
    a.update();
    b.update();
    CHECK(a.state()[0].second.to_vector<float>() == b.state()[0].second.to_vector<float>());
    b.swap();
    CHECK(q.value.to_vector<float>()[7] == doctest::Approx(1.2));
  }

  TEST_CASE("replayed steps are the bits of eager steps, dropout and clipping too") {
    if (!test::has_gpu()) return;
    for (const char* changes : {"{}", R"({"train": {"precision": "bf16"}})",
                                R"({"train": {"accumulate": 2}})", kVision}) {
      CAPTURE(changes);
      RunConfig c = config(changes);
      c.train.cuda_graph = "off";
      Parts eager(c);
      c.train.cuda_graph = "on";
      Parts graph(c);
      const auto expected = eager.run(0, 9);
      const auto found = graph.run(0, 9);  // three eager steps, then replays
      CHECK(eager.step->graph_nodes() == 0);
      CHECK(graph.step->graph_nodes() > 0);
      CHECK(found == expected);
      CHECK(eager.weights() == graph.weights());
    }
  }

  TEST_CASE("steady steps ask the system for no memory") {
    if (!test::has_gpu()) return;
    for (const char* graph : {"off", "on"}) {
      RunConfig c = config();
      c.train.cuda_graph = graph;
      Parts parts(c);
      parts.run(0, 5);
      const int64_t calls = allocator(test::kGpu).stats().system_calls;
      parts.run(5, 5);
      CHECK(allocator(test::kGpu).stats().system_calls == calls);
    }
  }

  TEST_CASE("a loss that is not finite stops the run before anything is saved") {
    if (!test::has_gpu()) return;
    tessera_tests::TemporaryFolder folder;
    CHECK_THROWS_WITH_AS(
        train(config(R"({"train": {"optimizer": {"lr": 1e30}, "clip": null, "steps": 12,
                                   "checkpoint_every": 1, "eval_every": 0}})"),
              {.run = folder.path(), .base = ".", .quiet = true}),
        doctest::Contains("at step"), Error);
    for (int64_t step : checkpoint_steps(folder.path())) {
      for (float value : tensors_of(folder.path(), step)) REQUIRE(std::isfinite(value));
    }
  }

  TEST_CASE("a tensor of another device is named in the error") {
    if (!test::has_gpu()) return;
    Parts parts(config());
    CHECK_THROWS_WITH_AS(parts.task->loss(*parts.model, parts.loader.next(), {}),
                         doctest::Contains("cuda:0"), Error);
  }
}
