// tessera perplexity RUN FILE [--ids] [--context N] [--stride S] [--batch B] [--json]
#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <memory>

#include "tessera/cli/command.h"
#include "tessera/cli/language_model.h"
#include "tessera/config/json.h"
#include "tessera/data/token_reader.h"
#include "tessera/inference/perplexity.h"

namespace tessera::cli {
namespace {

struct Options {
  LanguageModelOptions model;
  std::string file;
  PerplexityOptions perplexity;
  bool ids = false;
  bool json = false;
};

// A line on stderr now and then: on a terminal always the same one.
class ProgressLine {
 public:
  // Of texts it says how much is read; of ids only what they are.
  explicit ProgressLine(const Options& o)
      : size_(o.ids ? 0 : static_cast<double>(std::filesystem::file_size(o.file))),
        terminal_(isatty(STDERR_FILENO) != 0) {}
  ~ProgressLine() {
    if (shown_ && terminal_) fmt::print(stderr, "\r\033[K");
  }
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  void show(const Perplexity& p) {
    const auto now = Clock::now();
    if (std::chrono::duration<double>(now - last_).count() < (terminal_ ? 0.5 : 10)) return;
    last_ = now;
    shown_ = true;
    const double seconds = std::chrono::duration<double>(now - start_).count();
    std::string line;
    if (size_ > 0) {
      line = fmt::format("{:.1f} % read, ", 100 * static_cast<double>(p.bytes) / size_);
    }
    line += fmt::format("{} tokens, {:.0f} tokens/s, perplexity {:.3f}", p.tokens,
                        static_cast<double>(p.tokens) / seconds, p.per_token());
    fmt::print(stderr, "{}{}", terminal_ ? "\r\033[K" : "", line + (terminal_ ? "" : "\n"));
    std::fflush(stderr);
  }

 private:
  using Clock = std::chrono::steady_clock;
  double size_;
  bool terminal_;
  bool shown_ = false;
  Clock::time_point start_ = Clock::now(), last_ = start_;
};

std::unique_ptr<TokenSource> open_source(const Options& o, const Tokenizer& tokenizer) {
  if (o.ids) return std::make_unique<IdReader>(o.file, tokenizer);
  return std::make_unique<TokenReader>(o.file, tokenizer);
}

int run(const Options& o) {
  namespace fs = std::filesystem;
  check(fs::exists(o.file), "perplexity: {}: no such file", o.file);
  check(fs::is_regular_file(o.file), "perplexity: {} is not a file", o.file);
  check(fs::file_size(o.file) > 0, "perplexity: {} is empty", o.file);
  const LoadedLanguageModel loaded = load_language_model("perplexity", o.model);
  const auto text = open_source(o, loaded.tokenizer());
  const auto start = std::chrono::steady_clock::now();
  Perplexity result;
  {
    ProgressLine line(o);
    result = perplexity(loaded.language_model(), loaded.tokenizer(), *text, o.perplexity,
                        [&](const Perplexity& p) { line.show(p); });
  }
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (o.json) {
    const Json answer = {{"perplexity", result.per_token()},
                         {"perplexity_per_byte", result.per_byte()},
                         {"bits_per_byte", result.bits_per_byte()},
                         {"nats", result.nats},
                         {"tokens", result.tokens},
                         {"bytes", result.bytes},
                         {"seconds", seconds}};
    fmt::print("{}\n", answer.dump());
    return 0;
  }
  fmt::print("perplexity {:.4f} per token, {:.4f} per byte ({:.4f} bits per byte)\n",
             result.per_token(), result.per_byte(), result.bits_per_byte());
  fmt::print("{} tokens and {} bytes predicted in {:.1f} s, {:.0f} tokens/s\n", result.tokens,
             result.bytes, seconds, static_cast<double>(result.tokens) / seconds);
  return 0;
}

void add(Command app) {
  auto o = std::make_shared<Options>();
  Command command =
      app.add_subcommand("perplexity", "how well a trained language model predicts a text file");
  add_language_model_options(command, o->model);
  command.add_option("file", o->file, "text file").required();
  command.add_flag("--ids", o->ids, "the file has ids, as `data tokenize` prints them");
  command
      .add_option("--context", o->perplexity.context,
                  "tokens that the model sees (default: as many as it can)")
      .range(1, 1 << 30);
  command
      .add_option("--stride", o->perplexity.stride,
                  "tokens from window to window (default: half of the context)")
      .range(1, 1 << 30);
  command.add_option("--batch", o->perplexity.batch, "windows at a time (default: 4)")
      .range(1, 1 << 15);
  command.add_flag("--json", o->json, "print the result as JSON");
  command.callback([o] { set_exit_code(run(*o)); });
}

const RegisterCommand row{"perplexity", add};

}  // namespace
}  // namespace tessera::cli
