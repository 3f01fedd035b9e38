// tessera eval RUN [--split test] [--step N] [--json]
#include <fmt/format.h>

#include "tessera/cli/command.h"
#include "tessera/config/json.h"
#include "tessera/models/run_folder.h"
#include "tessera/train/config.h"
#include "tessera/train/evaluate.h"

namespace tessera::cli {
namespace {

struct Options {
  std::string run;
  std::string split = "validation";
  int64_t step = -1;
  int64_t batches = 0;
  std::string device = "cpu";
  bool json = false;
};

int run(const Options& o) {
  const RunFolder folder(o.run);
  const auto config = from_json<RunConfig>(folder.config());
  const int64_t step = o.step >= 0 ? o.step : folder.latest_step();
  const auto model = folder.load_model(step, device_from_name(o.device));
  const auto data =
      config.data.build(DataContext{folder.card().base, static_cast<uint64_t>(config.seed)});
  const auto task = config.task.build();
  const auto metrics = evaluate(*model, *task, *data, split_from_name(o.split),
                                {.batch = config.train.eval_batch.value_or(config.train.batch),
                                 .batches = o.batches > 0 ? o.batches : config.train.eval_batches,
                                 .seed = static_cast<uint64_t>(config.seed)});
  if (o.json) {
    Json answer = {{"step", step}, {"split", o.split}};
    for (const auto& [name, value] : metrics) answer["metrics"][name] = value;
    fmt::print("{}\n", answer.dump());
    return 0;
  }
  fmt::print("step {}, {} split\n", step, o.split);
  for (const auto& [name, value] : metrics) fmt::print("{:<12} {:.4f}\n", name, value);
  return 0;
}

void add(Command app) {
  auto o = std::make_shared<Options>();
  Command command = app.add_subcommand("eval", "measure a trained model on a split of its data");
  command.add_option("run", o->run, "run folder").required();
  command.add_option("--split", o->split, "train, validation or test (default: validation)");
  command.add_option("--step", o->step, "which checkpoint (default: the newest)");
  command.add_option("--batches", o->batches, "how many batches (default: as the config says)");
  command.add_option("--device", o->device, "cpu or cuda:0 (default: cpu)");
  command.add_flag("--json", o->json, "print the result as JSON");
  command.callback([o] { set_exit_code(run(*o)); });
}

const RegisterCommand row{"eval", add};

}  // namespace
}  // namespace tessera::cli
