// tessera import FROM --run RUN [--tokenizer PATH] [--data PATH]
#include <fmt/format.h>

#include "tessera/cli/command.h"
#include "tessera/core/file.h"
#include "tessera/data/tokenizer_files.h"
#include "tessera/models/exchange/checkpoint.h"
#include "tessera/models/run_folder.h"
#include "tessera/train/checkpoint.h"
#include "tessera/train/config.h"

namespace tessera::cli {
namespace {
namespace fs = std::filesystem;

struct Options {
  std::string from;
  std::string run;
  std::string tokenizer;
  std::string data;
};

constexpr int64_t kLongestWindow = 1024;  // of evaluation
constexpr const char* kVocabularyFiles[] = {"tokenizer.json", "vocab.json", "encoder.json",
                                            "merges.txt",     "vocab.bpe",  "vocab.txt"};
constexpr const char* kSettingFiles[] = {"tokenizer_config.json", "special_tokens_map.json"};

// Copies the files of a tokenizer into the run, where its config finds them, and reads them.
// Returns the config that names them.
Json take_tokenizer(const fs::path& from, const fs::path& run, ForeignModel& model) {
  model.tokenizer = open_tokenizer(from, model.spec.data.vocabulary);
  const bool is_folder = fs::is_directory(from);
  const fs::path folder = is_folder ? from : from.parent_path(), to = run / "tokenizer";
  fs::create_directories(to);
  const auto take = [&](const fs::path& name) {
    if (fs::exists(folder / name)) fs::copy_file(folder / name, to / name);
  };
  for (const char* name : kSettingFiles) take(name);
  if (is_folder) {
    for (const char* name : kVocabularyFiles) take(name);
  } else {
    take(from.filename());
  }
  return {{"type", model.tokenizer->state().at("type")},
          {"path", is_folder ? "tokenizer" : "tokenizer/" + from.filename().string()}};
}

Json find_tokenizer(const Options& o, const fs::path& run, ForeignModel& model) {
  if (model.tokenizer != nullptr && o.tokenizer.empty()) return model.tokenizer->state();
  const fs::path from = o.tokenizer.empty() ? o.from : o.tokenizer;
  if (!o.tokenizer.empty() || has_tokenizer(from)) return take_tokenizer(from, run, model);
  if (model.spec.data.vocabulary == 256) {
    model.tokenizer = std::make_unique<ByteTokenizer>();
    return model.tokenizer->state();
  }
  fmt::print(stderr,
             "{} holds no tokenizer.json, nor vocab.json with merges.txt: give one with "
             "--tokenizer to generate text\n",
             o.from);
  return "byte";
}

Json text_data(const Options& o, const Json& tokenizer, const DataInfo& info) {
  return {{"type", "text"},
          {"path", o.data.empty() ? "tiny_shakespeare/input.txt" : fs::absolute(o.data).string()},
          {"tokenizer", tokenizer},
          {"context", std::min(info.context, kLongestWindow)}};
}

Json image_data(const Options& o, const ForeignModel& model) {
  Json data = {{"type", "image_folder"},
               {"path", o.data.empty() ? "" : fs::absolute(o.data).string()},
               {"size", model.spec.data.height},
               {"channels", model.spec.data.channels},
               {"transforms", Json::array()}};
  for (const auto& choice : model.transforms.choices) {
    data["transforms"].push_back(to_json(choice));
    if (choice.type() == "resize") data["size"] = 0;  // the transforms see the whole image
  }
  return data;
}

// Everything under a temporary name, which becomes RUN when all is there.
void write_run(const Options& o, const fs::path& folder, ForeignModel& model) {
  const bool text = model.spec.data.vocabulary > 0;
  fs::create_directories(folder);
  const Json tokenizer = text ? find_tokenizer(o, folder, model) : Json();
  const Json config = {
      {"name", fs::path(o.run).filename().string()},
      {"task", text ? "language_modeling" : "image_classification"},
      {"model", to_json(model.spec.model)},
      {"data", text ? text_data(o, tokenizer, model.spec.data) : image_data(o, model)},
      {"train", {{"batch", 8}}}};
  write_file_atomic((folder / "config.json").string(),
                    to_json(from_json<RunConfig>(config)).dump(2) + "\n");
  const Json state =
      data_state(model.spec.data, model.tokenizer.get(), text ? nullptr : &model.transforms);
  write_file_atomic((folder / "run.json").string(), RunCard::make(o.run, state).dump(2) + "\n");
  Checkpoint checkpoint;
  checkpoint.model = std::move(model.tensors);
  checkpoint.state = {{"imported", fs::absolute(o.from).string()}};
  write_checkpoint(folder, checkpoint);
}

int run(const Options& o) {
  check(fs::exists(o.from), "import: {}: no such file or folder", o.from);
  check(!fs::exists(o.run), "import: {} exists already; choose another folder for --run", o.run);
  ForeignModel model = is_llama2c(o.from) ? read_llama2c(o.from) : read_hugging_face(o.from);
  fs::path run = fs::path(o.run).lexically_normal();
  if (!run.has_filename()) run = run.parent_path();
  const fs::path temporary = run.string() + ".tmp";
  fs::remove_all(temporary);
  try {
    write_run(o, temporary, model);
    fs::rename(temporary, run);
  } catch (...) {
    fs::remove_all(temporary);
    throw;
  }
  const auto built = RunFolder(run).load_model();
  fmt::print("{}: {} of {} parameters, imported from {}\n", run.string(), model.spec.model.type(),
             built->parameter_count(), o.from);
  return 0;
}

void add(Command app) {
  auto o = std::make_shared<Options>();
  Command command = app.add_subcommand("import", "make a run of a model trained elsewhere");
  command
      .add_option(
          "from", o->from,
          "a folder with config.json and model.safetensors (GPT-2, Llama, ViT, DeiT), or a .bin "
          "file of llama2.c")
      .required();
  command.add_option("--run", o->run, "the run folder to write; must not exist").required();
  command.add_option(
      "--tokenizer", o->tokenizer,
      "tokenizer.json, vocab.txt, tokenizer.bin of llama2.c, or a folder (default: what is "
      "beside the model)");
  command.add_option("--data", o->data,
                     "what `tessera eval` measures on: a text file, or a folder of images "
                     "(default for text: tiny_shakespeare in $TESSERA_DATA_DIR)");
  command.callback([o] { set_exit_code(run(*o)); });
}

const RegisterCommand row{"import", add};

}  // namespace
}  // namespace tessera::cli
