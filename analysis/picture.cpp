#include "tessera/analysis/picture.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <numeric>

#include "tessera/autograd/tape.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/view.h"
#include "tessera/data/image.h"

namespace tessera {
namespace {
namespace fs = std::filesystem;

constexpr const char* kEnglish =
    "The first time that we saw the city from the sea, it lay under the morning light like a "
    "mosaic: thousands of small roofs, each of them plain, and all of them together a picture.";

struct DataChoice {
  Choice<Dataset> data;
  TESSERA_FIELDS(f)
  { f("data", data, "what the run learnt from"); }
};

struct PictureChoice {
  Choice<Picture> picture;
  TESSERA_FIELDS(f)
  { f("picture", picture, "what is drawn"); }
};

Choice<Picture> choice_of(const std::string& name, const std::vector<std::string>& settings) {
  Json json = {{"picture", {{"type", name}}}};
  for (const std::string& setting : settings) set_by_path(json["picture"], setting);
  return from_json<PictureChoice>(json).picture;
}

class Modules final : public Members {
 public:
  std::vector<std::pair<std::string, Module*>> found;

 protected:
  void parameter(const std::string&, Tensor&) override {}
  void on_buffer(const std::string&, Tensor&) override {}
  void on_module(const std::string& path, Module& module) override {
    found.emplace_back(path, &module);
  }
};

// Elements 0 … count − 1 of the validation split, or of the training split where there is none.
Batch first_elements(const Dataset& data, int64_t count) {
  const Split split = data.size(Split::validation) > 0 ? Split::validation : Split::train;
  std::vector<int64_t> indices(static_cast<size_t>(std::min(count, data.size(split))));
  std::iota(indices.begin(), indices.end(), 0);
  return data.get(split, indices, 1);
}

int64_t context_of(Model& model) {
  const auto* lm = dynamic_cast<LanguageModel*>(&model);
  check(lm != nullptr, "draw: {} is no language model and reads no text", model.type_name());
  return lm->context_length();
}

Tensor stacked(const TensorList& images) {
  const Shape& one = images.front().shape();
  const Tensor all = empty({static_cast<int64_t>(images.size()), one[0], one[1], one[2]});
  for (size_t i = 0; i < images.size(); ++i) {
    kernels::copy(views::select(all, 0, static_cast<int64_t>(i)), images[i]);
  }
  return all;
}

}  // namespace

PictureInput::PictureInput(const RunFolder& run, PictureSource given)
    : run_(run), given_(std::move(given)), config_(run.config()) {}

Model& PictureInput::model() {
  if (model_ == nullptr) model_ = run_.load_model(given_.step);
  return *model_;
}

const RunCard& PictureInput::card() {
  if (!card_) card_.emplace(run_.card());
  return *card_;
}

const Dataset* PictureInput::data() {
  if (data_tried_) return data_.get();
  data_tried_ = true;
  if (!config_.contains("data")) return nullptr;
  try {
    Json only;
    only["data"] = config_["data"];
    const auto seed = static_cast<uint64_t>(config_.value("seed", int64_t{1}));
    data_ = from_json<DataChoice>(only).data.build(DataContext{card().base, seed});
  } catch (const std::exception&) {
    data_ = nullptr;  // its files are elsewhere
  }
  return data_.get();
}

const std::vector<Json>& PictureInput::metrics() {
  if (metrics_) return *metrics_;
  metrics_.emplace();
  std::ifstream in(run_.path() / "metrics.jsonl");
  for (std::string line; std::getline(in, line);) {
    Json row = Json::parse(line, nullptr, false);
    if (row.is_object() && row.contains("step") && row["step"].is_number()) {
      metrics_->push_back(std::move(row));
    }
  }
  return *metrics_;
}

Series PictureInput::metric(const std::string& name) {
  Series series{.name = name, .x = {}, .y = {}};
  for (const Json& row : metrics()) {
    if (!row.contains(name) || !row[name].is_number()) continue;
    series.x.push_back(row["step"].get<double>());
    series.y.push_back(row[name].get<double>());
  }
  return series;
}

Tensor PictureInput::tokens(int64_t most) {
  most = std::min(most, context_of(model()));
  const Tokenizer* tokenizer = card().data.tokenizer.get();
  if (!given_.text && data() != nullptr) {
    const Batch batch = first_elements(*data(), 1);
    check(batch.contains("tokens"), "draw: the data of the run are no text; give --text");
    const Tensor& all = batch.at("tokens");
    return kernels::contiguous(views::slice(all, 1, 0, std::min(most, all.size(1))));
  }
  check(tokenizer != nullptr, "draw: {} holds no tokenizer, and its data are not there",
        run_.path().string());
  std::vector<int64_t> ids = tokenizer->encode(given_.text.value_or(kEnglish));
  check(!ids.empty(), "draw: the text is empty");
  if (static_cast<int64_t>(ids.size()) > most) ids.resize(static_cast<size_t>(most));
  return from_values(ids, {1, static_cast<int64_t>(ids.size())});
}

std::vector<std::string> PictureInput::token_texts(const Tensor& tokens) {
  const Tokenizer* tokenizer = card().data.tokenizer.get();
  std::vector<std::string> texts;
  for (const int64_t id : tokens.to_vector<int64_t>()) {
    texts.push_back(tokenizer == nullptr ? "?" : tokenizer->decode(std::vector<int64_t>{id}));
  }
  return texts;
}

Tensor PictureInput::images(int64_t most) {
  const DataState& state = card().data;
  check(state.info.channels > 0, "draw: the model of {} looks at no images", run_.path().string());
  TensorList all;
  for (const fs::path& file : given_.images) {
    all.push_back(preprocess(load_image(file), state.info, state.transforms));
    if (static_cast<int64_t>(all.size()) == most) break;
  }
  if (!all.empty()) return stacked(all);
  check(data() != nullptr, "draw: the data of {} are not there; give --image FILE",
        run_.path().string());
  return first_elements(*data(), most).at("images");
}

// A normalisation is affine in each channel: black and white tell which.
Tensor PictureInput::shown(const Tensor& images) {
  std::vector<Choice<Transform>> normalising;
  for (const Choice<Transform>& choice : card().data.transforms.choices) {
    if (choice.type() == "normalize") normalising.push_back(choice);
  }
  const TransformList transforms(std::move(normalising));
  const int64_t channels = images.size(1), area = images.size(2) * images.size(3);
  const auto black = transforms(zeros({channels, 1, 1}), nullptr).to_vector<float>();
  const auto white = transforms(ones({channels, 1, 1}), nullptr).to_vector<float>();
  const Tensor out = kernels::clone(images);
  for (int64_t plane = 0; plane < images.size(0) * channels; ++plane) {
    const auto c = static_cast<size_t>(plane % channels);
    float* values = out.data<float>() + plane * area;
    for (int64_t i = 0; i < area; ++i) {
      values[i] = std::clamp((values[i] - black[c]) / (white[c] - black[c]), 0.0F, 1.0F);
    }
  }
  return out;
}

std::vector<std::string> offered_pictures(PictureInput& input) {
  std::vector<std::string> names;
  for (const std::string& name : registered_names(Picture::kKind)) {
    if (choice_of(name, {}).build()->offered(input)) names.push_back(name);
  }
  return names;
}

std::vector<NamedCanvas> draw_picture(const std::string& name,
                                      const std::vector<std::string>& settings,
                                      PictureInput& input) {
  const auto picture = choice_of(name, settings).build();
  check(picture->offered(input), "draw: {} has no \"{}\" to show (it offers: {})",
        input.run().path().string(), name, fmt::join(offered_pictures(input), ", "));
  return picture->draw(input);
}

std::vector<std::pair<std::string, Tensor>> observe(Model& model, const Tensor& input,
                                                    const std::vector<std::string>& endings) {
  std::vector<std::pair<std::string, Tensor>> seen;
  const NoGrad off;
  const ProbeScope scope(model, [&](const std::string& path, const Tensor& value) {
    const auto ends = [&path](const std::string& ending) { return path.ends_with(ending); };
    if (std::any_of(endings.begin(), endings.end(), ends)) {
      seen.emplace_back(path, kernels::clone(kernels::to_device(value.detach(), {})));
    }
  });
  if (auto* lm = dynamic_cast<LanguageModel*>(&model)) {
    lm->hidden(input, {});
  } else if (auto* classifier = dynamic_cast<ImageClassifier*>(&model)) {
    classifier->logits(input, {});
  } else if (auto* reconstructor = dynamic_cast<ImageReconstructor*>(&model)) {
    const int64_t p = reconstructor->patch();
    reconstructor->reconstruct(
        input,
        zeros({input.size(0), input.size(2) / p * (input.size(3) / p)}, {DType::boolean, {}}));
  } else {
    fail("observe: {} is no language model and reads no images", model.type_name());
  }
  return seen;
}

std::vector<std::pair<std::string, Module*>> all_modules(Module& root) {
  Modules modules;
  modules.walk(root);
  return modules.found;
}

}  // namespace tessera
