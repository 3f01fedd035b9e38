// tessera generate RUN [--prompt TEXT]… [--prompts FILE] [--tokens N] [--stop TEXT]…
// [--temperature T] [--top-k K] [--top-p P] [--min-p P] [--repetition-penalty R] [--seed S]
// [--ids] [--json]
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdio>
#include <filesystem>
#include <fstream>

#include "tessera/cli/command.h"
#include "tessera/cli/language_model.h"
#include "tessera/config/json.h"
#include "tessera/inference/generate.h"
#include "tessera/inference/text_stream.h"

namespace tessera::cli {
namespace {

constexpr int64_t kPageSize = 64;
constexpr size_t kBytesPerToken = 256;  // more than any token of the context has

struct Options {
  LanguageModelOptions model;
  std::vector<std::string> prompts;
  std::string file;
  std::vector<std::string> stops;
  GenerateOptions generate;
  int64_t batch = 16;
  bool ids = false;
  bool json = false;
  bool no_cache = false;
  bool paged = false;
};

// The prompts of the command line and then those of the file, one after another.
class Prompts {
 public:
  explicit Prompts(const Options& o)
      : given_(o.prompts), path_(o.file), json_(o.file.ends_with(".jsonl")) {
    if (path_.empty()) {
      if (given_.empty()) given_.emplace_back("\n");
      return;
    }
    check(!std::filesystem::is_directory(path_), "generate: {} is a directory", path_);
    file_.open(path_, std::ios::binary);
    check(file_.good(), "generate: {} cannot be read", path_);
  }

  bool next(std::string& prompt) {
    if (at_ < given_.size()) {
      prompt = given_[at_++];
      return true;
    }
    while (file_.is_open() && std::getline(file_, prompt)) {
      ++line_;
      if (prompt.ends_with('\r')) prompt.pop_back();
      if (prompt.empty()) continue;
      if (json_) prompt = from_json_line(prompt);
      return true;
    }
    return false;
  }

 private:
  std::string from_json_line(const std::string& line) const {
    const std::string where = fmt::format("{}: line {}", path_, line_);
    const Json json = parse_json(line, where);
    const Json text = json.is_object() ? json.value("prompt", Json()) : json;
    check(text.is_string(), "{}: wants a string, or an object with a string \"prompt\"", where);
    return text.get<std::string>();
  }

  std::vector<std::string> given_;
  size_t at_ = 0;
  std::string path_;
  bool json_;
  std::ifstream file_;
  int64_t line_ = 0;
};

// The end of a text that may be much longer than the context.
std::string_view end_of(std::string_view text, int64_t context) {
  const size_t most = static_cast<size_t>(context) * kBytesPerToken;
  if (text.size() <= most) return text;
  text.remove_prefix(text.size() - most);
  while (!text.empty() && (static_cast<unsigned char>(text.front()) & 0xC0) == 0x80) {
    text.remove_prefix(1);
  }
  return text;
}

// An empty prompt begins with the token that begins a text, or else the one that ends one.
std::vector<int64_t> tokens_of(const Tokenizer& tokenizer, std::string_view text, int64_t context) {
  std::vector<int64_t> tokens;
  if (const auto begin = tokenizer.begin_of_text()) tokens.push_back(*begin);
  const std::vector<int64_t> ids = tokenizer.encode(end_of(text, context));
  tokens.insert(tokens.end(), ids.begin(), ids.end());
  const auto end = tokenizer.end_of_text();
  if (tokens.empty() && end) tokens.push_back(*end);
  check(
      !tokens.empty(),
      "generate: the prompt is empty, and the vocabulary has no token that begins a text; give at "
      "least one character");
  return tokens;
}

struct Answer {
  std::string prompt;
  TextStream stream;
  std::vector<int64_t> ids;  // without the token that begins a text
  std::string text = {};
  int64_t tokens = 0;
  const char* end = "length";
};

class Session {
 public:
  explicit Session(const Options& o) : o_(o), loaded_(load_language_model("generate", o.model)) {
    o_.generate.use_cache = !o.no_cache;
    o_.generate.page_size = o.paged ? kPageSize : 0;
  }

  void run(const std::vector<std::string>& prompts) {
    LanguageModel& model = loaded_.language_model();
    std::vector<std::vector<int64_t>> tokens;
    std::vector<Answer> answers;
    for (const std::string& prompt : prompts) {
      tokens.push_back(tokens_of(loaded_.tokenizer(), prompt, model.context_length()));
      const bool begins = tokens.back()[0] == loaded_.tokenizer().begin_of_text();
      answers.push_back({valid(prompt),
                         TextStream(loaded_.tokenizer(), o_.stops),
                         {tokens.back().begin() + (begins ? 1 : 0), tokens.back().end()}});
    }
    streaming_ = !o_.json && !o_.ids && single_;
    if (streaming_) show(answers[0].prompt);
    const GenerateTimes times = generate(model, tokens, o_.generate, [&](size_t b, int64_t token) {
      return take(answers[b], token);
    });
    times_.add(times);
    o_.generate.seed += prompts.size();
    for (Answer& answer : answers) finish(answer, times);
  }

  void single(bool on) { single_ = on; }
  void print_speed() const { fmt::print(stderr, "{}\n", speed(times_)); }

 private:
  static std::string valid(const std::string& text) {
    Utf8Stream stream;
    std::string whole = stream.push(text);
    return whole += stream.finish();
  }

  static void show(const std::string& text) {
    fmt::print("{}", text);
    std::fflush(stdout);
  }

  bool take(Answer& answer, int64_t token) {
    if (token == loaded_.tokenizer().end_of_text() ||
        token == loaded_.tokenizer().begin_of_text()) {
      answer.end = "end_of_text";
      return false;
    }
    const std::string piece = answer.stream.push(token);
    ++answer.tokens;
    answer.ids.push_back(token);
    answer.text += piece;
    if (streaming_) show(piece);
    if (answer.stream.stopped()) answer.end = "stop";
    return !answer.stream.stopped();
  }

  void finish(Answer& answer, const GenerateTimes& times) {
    const std::string rest = answer.stream.finish();
    answer.text += rest;
    if (o_.json) {
      Json json = {{"prompt", answer.prompt},
                   {"text", answer.prompt + answer.text},
                   {"continuation", answer.text},
                   {"tokens", answer.tokens},
                   {"end", answer.end},
                   {"seconds", times.prefill_seconds + times.decode_seconds},
                   {"prefill_tokens_per_second", rate(times.prompt_tokens, times.prefill_seconds)},
                   {"decode_tokens_per_second", rate(times.decoded_tokens, times.decode_seconds)}};
      if (o_.ids) json["ids"] = answer.ids;
      fmt::print("{}\n", json.dump(-1, ' ', false, Json::error_handler_t::replace));
    } else if (o_.ids) {
      show(fmt::format("{}\n", fmt::join(answer.ids, " ")));
    } else if (streaming_) {
      show(rest + "\n");
    } else {
      show(fmt::format("[{}] {}{}\n", ++shown_, answer.prompt, answer.text));
    }
  }

  static double rate(int64_t tokens, double seconds) {
    return seconds > 0 ? static_cast<double>(tokens) / seconds : 0;
  }
  static std::string speed(const GenerateTimes& t) {
    return fmt::format("prefill: {} tokens, {:.0f} tokens/s; decode: {} tokens, {:.0f} tokens/s",
                       t.prompt_tokens, rate(t.prompt_tokens, t.prefill_seconds), t.decoded_tokens,
                       rate(t.decoded_tokens, t.decode_seconds));
  }

  Options o_;
  LoadedLanguageModel loaded_;
  GenerateTimes times_;
  bool single_ = true;
  bool streaming_ = false;
  int64_t shown_ = 0;
};

int run(const Options& o) {
  Prompts prompts(o);
  Session session(o);
  std::vector<std::string> group;
  std::string prompt;
  bool any = false;
  while (true) {
    while (static_cast<int64_t>(group.size()) < o.batch && prompts.next(prompt)) {
      group.push_back(std::move(prompt));
    }
    if (group.empty()) break;
    if (!any) session.single(group.size() == 1 && o.file.empty());
    any = true;
    session.run(group);
    group.clear();
  }
  check(any, "generate: {} holds no prompt", o.file);
  if (!o.json) session.print_speed();
  return 0;
}

void add_sampling_options(Command command, SamplingOptions& s) {
  command
      .add_option("--temperature", s.temperature, "0: always the most probable token (default: 1)")
      .range(0.0, 100.0);
  command.add_option("--top-k", s.top_k, "only the K most probable tokens; 0: all")
      .range(0, 1 << 30);
  command
      .add_option("--top-p", s.top_p,
                  "only the most probable tokens that together reach P (default: 1)")
      .range(0.0, 1.0);
  command
      .add_option("--min-p", s.min_p,
                  "only tokens at least P times as probable as the most probable (default: 0)")
      .range(0.0, 1.0);
  command
      .add_option("--repetition-penalty", s.repetition_penalty,
                  "divides positive logits of tokens seen before, multiplies negative (default: 1)")
      .range(0.01, 100.0);
}

void add(Command app) {
  auto o = std::make_shared<Options>();
  Command command = app.add_subcommand("generate", "continue texts with a trained language model");
  add_language_model_options(command, o->model);
  command
      .add_option("--prompt", o->prompts,
                  "a text to continue; may be repeated (default: a line break)")
      .allow_extra_args(false);
  command.add_option("--prompts", o->file,
                     "a file with a prompt per line; a .jsonl file has strings or objects with "
                     "\"prompt\"");
  command.add_option("--batch", o->batch, "prompts that are continued together (default: 16)")
      .range(1, 1 << 15);
  command.add_option("--tokens", o->generate.tokens, "how many tokens to add (default: 200)")
      .range(1, 1 << 30);
  command.add_option("--stop", o->stops, "a text that ends the answer, not shown; may be repeated")
      .allow_extra_args(false);
  add_sampling_options(command, o->generate.sampling);
  command.add_option("--seed", o->generate.seed,
                     "of the random choices; further prompts have the next numbers (default: 1)");
  command.add_flag("--no-cache", o->no_cache, "compute the whole context again for every token");
  command.add_flag("--paged", o->paged, "keep keys and values in pages of 64 tokens");
  command.add_flag("--ids", o->ids, "print the ids of prompt and continuation, a text per line");
  command.add_flag("--json", o->json, "print one JSON object per prompt");
  command.callback([o] { set_exit_code(run(*o)); });
}

const RegisterCommand row{"generate", add};

}  // namespace
}  // namespace tessera::cli
