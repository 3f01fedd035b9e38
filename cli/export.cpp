// tessera export RUN DIR [--step N]
#include <fmt/format.h>

#include "tessera/cli/command.h"
#include "tessera/data/bpe.h"
#include "tessera/models/exchange/checkpoint.h"
#include "tessera/models/run_folder.h"

namespace tessera::cli {
namespace {
namespace fs = std::filesystem;

struct Options {
  std::string run;
  std::string to;
  int64_t step = -1;
};

// The files that the run was imported with, or those of a byte-level vocabulary of its own.
void write_tokenizer(const RunFolder& run, const RunCard& card, const fs::path& to) {
  if (fs::is_directory(run.path() / "tokenizer")) {
    for (const auto& file : fs::directory_iterator(run.path() / "tokenizer")) {
      fs::copy_file(file.path(), to / file.path().filename());
    }
    return;
  }
  const auto* bpe = dynamic_cast<const BpeTokenizer*>(card.data.tokenizer.get());
  if (bpe != nullptr && !bpe->model().characters && !bpe->model().merges.empty()) {
    write_bpe(bpe->model(), to);
  } else if (card.data.tokenizer != nullptr) {
    fmt::print(stderr,
               "the run's tokenizer has no files of that format: only the model is written\n");
  }
}

int run(const Options& o) {
  const RunFolder folder(o.run);
  const RunCard card = folder.card();
  check(!fs::exists(o.to), "export: {} exists already; choose another folder", o.to);
  const auto model = folder.load_model(o.step >= 0 ? std::optional(o.step) : std::nullopt);
  const ModelSpec spec{from_json<Choice<Model>>(folder.config().at("model"), "model"),
                       card.data.info};
  fs::path to = fs::path(o.to).lexically_normal();
  if (!to.has_filename()) to = to.parent_path();
  const fs::path temporary = to.string() + ".tmp";
  fs::remove_all(temporary);
  try {
    write_hugging_face(temporary, spec, model->state(), card.data.transforms);
    write_tokenizer(folder, card, temporary);
    fs::rename(temporary, to);
  } catch (...) {
    fs::remove_all(temporary);
    throw;
  }
  fmt::print("{}: config.json and model.safetensors, {} parameters\n", to.string(),
             model->parameter_count());
  return 0;
}

void add(Command app) {
  auto o = std::make_shared<Options>();
  Command command = app.add_subcommand(
      "export",
      "write a model as the transformers library loads it (GPT-2, Llama, ViT, DeiT, ConViT)");
  command.add_option("run", o->run, "run folder").required();
  command.add_option("to", o->to, "the folder to write; must not exist").required();
  command.add_option("--step", o->step, "which checkpoint (default: the newest)");
  command.callback([o] { set_exit_code(run(*o)); });
}

const RegisterCommand row{"export", add};

}  // namespace
}  // namespace tessera::cli
