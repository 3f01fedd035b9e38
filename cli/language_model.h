// What the commands on language models share.
#pragma once

#include <memory>
#include <string>

#include "tessera/cli/command.h"
#include "tessera/data/tokenizer.h"
#include "tessera/models/run_folder.h"

namespace tessera::cli {

struct LanguageModelOptions {
  std::string run;
  int64_t step = -1;  // −1: the newest checkpoint
  std::string device = "cpu";
  std::string precision = "f32";
};

// The options run, --step, --device and --precision.
void add_language_model_options(Command command, LanguageModelOptions& options);

struct LoadedLanguageModel {
  RunCard card;
  std::unique_ptr<Model> model;

  LanguageModel& language_model() const { return dynamic_cast<LanguageModel&>(*model); }
  const Tokenizer& tokenizer() const { return *card.data.tokenizer; }
};

// Errors begin with the command's name.
LoadedLanguageModel load_language_model(const std::string& command,
                                        const LanguageModelOptions& options);

}  // namespace tessera::cli
