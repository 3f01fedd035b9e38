// tessera measure RUN [--images N] [--step N] [--json]
#include <fmt/format.h>

#include "tessera/analysis/layer_measures.h"
#include "tessera/analysis/picture.h"
#include "tessera/cli/command.h"

namespace tessera::cli {
namespace {

struct Options {
  std::string run;
  int64_t images = 64;
  int64_t step = -1;
  bool json = false;
};

constexpr int64_t kTokens = 256;

Json to_json_rows(const std::vector<LayerMeasures>& layers) {
  Json rows = Json::array();
  for (const LayerMeasures& m : layers) {
    rows.push_back({{"coding_rate", m.rate},
                    {"coding_rate_deviation", m.rate_deviation},
                    {"coding_rate_after", m.rate_after},
                    {"nonzeros", m.nonzeros},
                    {"step_cosine", m.step_cosine}});
  }
  return rows;
}

int run(const Options& o) {
  const RunFolder folder(o.run);
  PictureSource given;
  if (o.step >= 0) given.step = o.step;
  PictureInput input(folder, given);
  const bool reads = dynamic_cast<LanguageModel*>(&input.model()) != nullptr;
  const Tensor data = reads ? input.tokens(kTokens) : input.images(o.images);
  const auto before = untrained(input.config(), input.card().data.info);
  const auto trained = measure_layers(input.model(), data), fresh = measure_layers(*before, data);
  if (o.json) {
    const Json answer = {{"trained", to_json_rows(trained)}, {"untrained", to_json_rows(fresh)}};
    fmt::print("{}\n", answer.dump());
    return 0;
  }
  fmt::print("{:>5}  {:>18} {:>10} {:>9} {:>11}   {:>18} {:>10} {:>9}\n", "", "coding rate",
             "after", "nonzeros", "step cosine", "untrained rate", "after", "nonzeros");
  for (size_t i = 0; i < trained.size(); ++i) {
    const LayerMeasures &a = trained[i], &b = fresh[i];
    fmt::print(
        "{:>5}  {:>9.2f} ± {:>6.2f} {:>10.2f} {:>9.3f} {:>11.3f}   {:>9.2f} ± {:>6.2f} "
        "{:>10.2f} {:>9.3f}\n",
        i + 1, a.rate, a.rate_deviation, a.rate_after, a.nonzeros, a.step_cosine, b.rate,
        b.rate_deviation, b.rate_after, b.nonzeros);
  }
  return 0;
}

void add(Command app) {
  auto o = std::make_shared<Options>();
  Command command = app.add_subcommand(
      "measure", "coding rate and sparsity of a white-box model's layers, trained and untrained");
  command.add_option("run", o->run, "run folder").required();
  command.add_option("--images", o->images, "how many to average over (default: 64)");
  command.add_option("--step", o->step, "which checkpoint (default: the newest)");
  command.add_flag("--json", o->json, "print the result as JSON");
  command.callback([o] { set_exit_code(run(*o)); });
}

const RegisterCommand row{"measure", add};

}  // namespace
}  // namespace tessera::cli
