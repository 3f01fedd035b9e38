// Pictures that a trained model offers: `tessera draw RUN`. A file per kind of picture, which
// registers itself:
//
//   struct Clusters final : Picture {
//     struct Config { int64_t layer = 0; TESSERA_FIELDS(f) { … } };
//     …
//   };
//   TESSERA_REGISTER(Picture, Clusters, "clusters", "what it shows", "paper");
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tessera/analysis/plot.h"
#include "tessera/config/json.h"
#include "tessera/models/run_folder.h"

namespace tessera {

// What the user gave.
struct PictureSource {
  std::optional<int64_t> step = {};                // of the checkpoint; else the newest
  std::optional<std::string> text = {};            // to read
  std::vector<std::filesystem::path> images = {};  // to look at
};

// What a picture is drawn from. Each part is made when it is first asked for, and throws an Error
// that says what to give when it cannot be made.
class PictureInput {
 public:
  explicit PictureInput(const RunFolder& run, PictureSource given = {});

  const RunFolder& run() const { return run_; }
  const Json& config() const { return config_; }
  Model& model();         // of the checkpoint, on the CPU, in evaluation mode
  const RunCard& card();  // tokenizer, transforms, class names
  // The training data; null where its files are not there.
  const Dataset* data();
  // Rows of metrics.jsonl, and a metric over the steps that have it.
  const std::vector<Json>& metrics();
  Series metric(const std::string& name);

  // i64 (1, N): the text given, else the start of the validation data, else some English; at most
  // `most` tokens and what the model takes.
  Tensor tokens(int64_t most);
  // What each token reads as; "?" without a tokenizer.
  std::vector<std::string> token_texts(const Tensor& tokens);
  // (B, C, H, W) as the model wants them: the images given, else the first `most` ones of the
  // validation data.
  Tensor images(int64_t most);
  // The same as people see them, in [0, 1]: without the normalisation.
  Tensor shown(const Tensor& images);

 private:
  const RunFolder& run_;
  PictureSource given_;
  Json config_;
  std::unique_ptr<Model> model_;
  std::optional<RunCard> card_;
  std::unique_ptr<Dataset> data_;
  bool data_tried_ = false;
  std::optional<std::vector<Json>> metrics_;
};

struct NamedCanvas {
  std::string name;  // of the file, without its extension
  Canvas canvas;
};

class Picture {
 public:
  static constexpr const char* kKind = "picture";
  using Build = std::unique_ptr<Picture>();
  virtual ~Picture() = default;

  // Whether the run has what it shows. Cheap: looks at the model's type or modules, at metrics.
  virtual bool offered(PictureInput& input) const = 0;
  virtual std::vector<NamedCanvas> draw(PictureInput& input) const = 0;
};

// The names of the registered pictures that the run offers.
std::vector<std::string> offered_pictures(PictureInput& input);
// One of them, by name, with settings "key=value" of its config.
std::vector<NamedCanvas> draw_picture(const std::string& name,
                                      const std::vector<std::string>& settings,
                                      PictureInput& input);

// What the probes of one forward pass without gradients showed, in order, of those whose path ends
// with one of `endings`; on the CPU. The model reads tokens (i64) or images.
std::vector<std::pair<std::string, Tensor>> observe(Model& model, const Tensor& input,
                                                    const std::vector<std::string>& endings);
// The modules of a type in the listing's order, by path.
template <class M>
std::vector<std::pair<std::string, M*>> modules_of(Module& root);
// Every module, the root first under "".
std::vector<std::pair<std::string, Module*>> all_modules(Module& root);

template <class M>
std::vector<std::pair<std::string, M*>> modules_of(Module& root) {
  std::vector<std::pair<std::string, M*>> found;
  for (const auto& [path, module] : all_modules(root)) {
    if (auto* wanted = dynamic_cast<M*>(module)) found.emplace_back(path, wanted);
  }
  return found;
}

}  // namespace tessera
