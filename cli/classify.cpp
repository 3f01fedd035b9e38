// tessera classify RUN IMAGE… [--top 5] [--json]
#include <fmt/format.h>

#include "tessera/autograd/ops/view.h"
#include "tessera/cli/command.h"
#include "tessera/config/json.h"
#include "tessera/data/image.h"
#include "tessera/data/transform.h"
#include "tessera/inference/classify.h"
#include "tessera/models/run_folder.h"

namespace tessera::cli {
namespace {

struct Options {
  std::string run;
  std::vector<std::string> images;
  int64_t top = 1;
  int64_t step = -1;
  std::string device = "cpu";
  bool json = false;
};

std::string class_name(const RunCard& card, int64_t label) {
  const auto at = static_cast<size_t>(label);
  return at < card.data.info.class_names.size() ? card.data.info.class_names[at]
                                                : std::to_string(label);
}

Json as_json(const RunCard& card, const std::string& file, const std::vector<Prediction>& list) {
  Json entry = {{"file", file}, {"predictions", Json::array()}};
  for (const Prediction& p : list) {
    entry["predictions"].push_back(
        {{"label", p.label}, {"class", class_name(card, p.label)}, {"probability", p.probability}});
  }
  return entry;
}

int run(const Options& o) {
  const RunFolder folder(o.run);
  const RunCard card = folder.card();
  const auto model = folder.load_model(o.step >= 0 ? std::optional(o.step) : std::nullopt,
                                       device_from_name(o.device));
  auto* classifier = dynamic_cast<ImageClassifier*>(model.get());
  check(classifier != nullptr, "classify: the model of {} is not an image classifier", o.run);
  Json answer = Json::array();
  for (const std::string& file : o.images) {
    const Tensor image = preprocess(load_image(file), card.data.info, card.data.transforms);
    const auto predictions = classify(*classifier, unsqueeze(image, 0), o.top)[0];
    if (o.json) {
      answer.push_back(as_json(card, file, predictions));
      continue;
    }
    fmt::print("{}:", file);
    for (const Prediction& p : predictions) {
      fmt::print("  {} {:.1f}%", class_name(card, p.label), 100 * p.probability);
    }
    fmt::print("\n");
  }
  if (o.json) fmt::print("{}\n", answer.dump());
  return 0;
}

void add(Command app) {
  auto o = std::make_shared<Options>();
  Command command = app.add_subcommand("classify", "name the class of image files");
  command.add_option("run", o->run, "run folder").required();
  command.add_option("images", o->images, "PNG, JPEG or BMP files of any size").required();
  command.add_option("--top", o->top, "how many classes to show (default: 1)").range(1, 1000000);
  command.add_option("--step", o->step, "which checkpoint (default: the newest)");
  command.add_option("--device", o->device, "cpu or cuda:0 (default: cpu)");
  command.add_flag("--json", o->json, "print the result as JSON");
  command.callback([o] { set_exit_code(run(*o)); });
}

const RegisterCommand row{"classify", add};

}  // namespace
}  // namespace tessera::cli
