// tessera generate RUN --prompt TEXT [--tokens N] [--temperature T] [--top-k K] [--top-p P] [--seed
// S]
#include <fmt/format.h>

#include <chrono>
#include <cstdio>

#include "tessera/cli/command.h"
#include "tessera/config/json.h"
#include "tessera/data/tokenizer.h"
#include "tessera/data/utf8.h"
#include "tessera/inference/generate.h"
#include "tessera/models/run_folder.h"

namespace tessera::cli {
namespace {

struct Options {
  std::string run;
  std::string prompt = "\n";
  GenerateOptions generate;
  int64_t step = -1;
  std::string device = "cpu";
  bool json = false;
  bool no_cache = false;
};

int run(const Options& o) {
  const RunFolder folder(o.run);
  const RunCard card = folder.card();
  const Tokenizer* tokenizer = card.data.tokenizer.get();
  check(tokenizer != nullptr,
        "generate: {} holds no tokenizer: it is no language model, or was imported without one",
        o.run);
  const auto model = folder.load_model(o.step >= 0 ? std::optional(o.step) : std::nullopt,
                                       device_from_name(o.device));
  auto* lm = dynamic_cast<LanguageModel*>(model.get());
  check(lm != nullptr, "generate: the model of {} is not a language model", o.run);
  GenerateOptions options = o.generate;
  options.use_cache = !o.no_cache;
  Utf8Stream stream;
  std::string text = o.prompt;
  if (!o.json) fmt::print("{}", o.prompt);
  const auto start = std::chrono::steady_clock::now();
  int64_t count = 0;
  generate(*lm, tokenizer->encode(o.prompt), options, [&](int64_t token) {
    const std::string piece = stream.push(tokenizer->decode(std::vector<int64_t>{token}));
    text += piece;
    ++count;
    if (!o.json) {
      fmt::print("{}", piece);
      std::fflush(stdout);
    }
    return true;
  });
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const std::string rest = stream.finish();
  if (o.json) {
    const Json answer = {{"text", text + rest}, {"tokens", count}, {"seconds", seconds}};
    fmt::print("{}\n", answer.dump(-1, ' ', false, Json::error_handler_t::replace));
  } else {
    fmt::print("{}\n", rest);
    std::fflush(stdout);
    fmt::print(stderr, "{:.0f} tokens/s\n", static_cast<double>(count) / seconds);
  }
  return 0;
}

void add(Command app) {
  auto o = std::make_shared<Options>();
  Command command = app.add_subcommand("generate", "continue a text with a trained language model");
  command.add_option("run", o->run, "run folder").required();
  command.add_option("--prompt", o->prompt, "the text to continue (default: a line break)");
  command.add_option("--tokens", o->generate.tokens, "how many tokens to add (default: 200)")
      .range(1, 1 << 30);
  command
      .add_option("--temperature", o->generate.sampling.temperature,
                  "0: always the most probable token (default: 1)")
      .range(0.0, 100.0);
  command
      .add_option("--top-k", o->generate.sampling.top_k, "only the K most probable tokens; 0: all")
      .range(0, 1 << 30);
  command
      .add_option("--top-p", o->generate.sampling.top_p,
                  "only the most probable tokens that together reach P (default: 1)")
      .range(0.0, 1.0);
  command.add_option("--seed", o->generate.seed, "of the random choices (default: 1)");
  command.add_option("--step", o->step, "which checkpoint (default: the newest)");
  command.add_flag("--no-cache", o->no_cache, "compute the whole context again for every token");
  command.add_option("--device", o->device, "cpu or cuda:0 (default: cpu)");
  command.add_flag("--json", o->json, "print the result as JSON");
  command.callback([o] { set_exit_code(run(*o)); });
}

const RegisterCommand row{"generate", add};

}  // namespace
}  // namespace tessera::cli
