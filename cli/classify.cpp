// tessera classify RUN IMAGE|FOLDER… [--top 5] [--batch 32] [--json]
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <span>

#include "tessera/autograd/ops/view.h"
#include "tessera/cli/command.h"
#include "tessera/config/json.h"
#include "tessera/data/image.h"
#include "tessera/data/transform.h"
#include "tessera/inference/classify.h"
#include "tessera/models/run_folder.h"

namespace tessera::cli {
namespace {
namespace fs = std::filesystem;

struct Options {
  std::string run;
  std::vector<std::string> images;
  int64_t top = 1;
  int64_t batch = 32;
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

// Files as they are named, folders as the images in them, sorted by name, folders inside too.
std::vector<std::string> image_files(const Options& o) {
  std::vector<std::string> files;
  for (const std::string& path : o.images) {
    if (!fs::is_directory(path)) {
      files.push_back(path);
      continue;
    }
    const size_t before = files.size();
    for (const auto& entry : fs::recursive_directory_iterator(path)) {
      if (entry.is_regular_file() && is_image_file(entry.path())) {
        files.push_back(entry.path().string());
      }
    }
    check(files.size() > before, "classify: no PNG, JPEG or BMP file in {}", path);
    std::sort(files.begin() + static_cast<ptrdiff_t>(before), files.end());
  }
  return files;
}

void print_line(const RunCard& card, const std::string& file, const std::vector<Prediction>& list) {
  fmt::print("{}:", file);
  for (const Prediction& p : list) {
    fmt::print("  {} {:.1f}%", class_name(card, p.label), 100 * p.probability);
  }
  fmt::print("\n");
}

// Images that cannot be read are named at their place and left out.
class Answer {
 public:
  Answer(const RunCard& card, bool json) : card_(card), json_(json) {}
  void add(const std::string& file, const std::vector<Prediction>& predictions) {
    if (json_) {
      list_.push_back(as_json(card_, file, predictions));
    } else {
      print_line(card_, file, predictions);
    }
  }
  void add_error(const std::string& file, const std::string& what) {
    ++errors_;
    if (json_) list_.push_back({{"file", file}, {"error", what}});
    fmt::print(stderr, "tessera: {}\n", what);
  }
  int finish() const {
    if (json_) fmt::print("{}\n", list_.dump(-1, ' ', false, Json::error_handler_t::replace));
    return errors_ == 0 ? 0 : 2;
  }

 private:
  const RunCard& card_;
  bool json_;
  int errors_ = 0;
  Json list_ = Json::array();
};

void classify_batch(ImageClassifier& model, const RunCard& card, std::span<const std::string> files,
                    int64_t top, Answer& answer) {
  TensorList images;
  std::vector<std::string> errors(files.size());
  for (size_t i = 0; i < files.size(); ++i) {
    try {
      images.push_back(preprocess(load_image(files[i]), card.data.info, card.data.transforms));
    } catch (const Error& error) {
      errors[i] = error.what();
    }
  }
  const auto rows = images.empty() ? std::vector<std::vector<Prediction>>()
                                   : classify(model, stack(images, 0), top);
  size_t row = 0;
  for (size_t i = 0; i < files.size(); ++i) {
    if (errors[i].empty()) {
      answer.add(files[i], rows[row++]);
    } else {
      answer.add_error(files[i], errors[i]);
    }
  }
}

int run(const Options& o) {
  const RunFolder folder(o.run);
  const RunCard card = folder.card();
  const std::vector<std::string> files = image_files(o);
  const auto model = folder.load_model(o.step >= 0 ? std::optional(o.step) : std::nullopt,
                                       device_from_name(o.device));
  auto* classifier = dynamic_cast<ImageClassifier*>(model.get());
  check(classifier != nullptr, "classify: the model of {} is not an image classifier", o.run);
  Answer answer(card, o.json);
  const auto batch = static_cast<size_t>(o.batch);
  for (size_t at = 0; at < files.size(); at += batch) {
    const size_t count = std::min(batch, files.size() - at);
    classify_batch(*classifier, card, std::span(files).subspan(at, count), o.top, answer);
  }
  return answer.finish();
}

void add(Command app) {
  auto o = std::make_shared<Options>();
  Command command = app.add_subcommand("classify", "name the class of image files");
  command.add_option("run", o->run, "run folder").required();
  command.add_option("images", o->images, "PNG, JPEG or BMP files of any size, or folders of them")
      .required();
  command.add_option("--top", o->top, "how many classes to show (default: 1)").range(1, 1000000);
  command.add_option("--batch", o->batch, "images computed together (default: 32)").range(1, 4096);
  command.add_option("--step", o->step, "which checkpoint (default: the newest)");
  command.add_option("--device", o->device, "cpu or cuda:0 (default: cpu)");
  command.add_flag("--json", o->json, "print the result as JSON");
  command.callback([o] { set_exit_code(run(*o)); });
}

const RegisterCommand row{"classify", add};

}  // namespace
}  // namespace tessera::cli
