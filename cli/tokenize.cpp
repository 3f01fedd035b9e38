// tessera data tokenize TOKENIZER [TEXT] [--json]
#include "tessera/cli/tokenize.h"

#include <fmt/format.h>

#include <chrono>
#include <cstdio>
#include <fstream>

#include "tessera/core/error.h"
#include "tessera/data/gzip.h"
#include "tessera/data/token_reader.h"
#include "tessera/data/tokenizer_files.h"

namespace tessera::cli {
namespace {

constexpr const char* kInput = "/dev/stdin";

struct Options {
  std::string tokenizer;
  std::string text = kInput;
  bool json = false;
};

constexpr size_t kBlock = size_t{4} << 20;  // bytes read or written at a time

// Ids as text, written in large pieces.
class Printer {
 public:
  explicit Printer(bool json) : json_(json) {
    if (json_) buffer_ += '[';
  }
  void add(int64_t id) {
    if (count_++ > 0) buffer_ += json_ ? ',' : ' ';
    const fmt::format_int text(id);
    buffer_.append(text.data(), text.size());
    if (buffer_.size() > kBlock) flush();
  }
  int64_t finish() {
    buffer_ += json_ ? "]\n" : "\n";
    flush();
    return count_;
  }

 private:
  void flush() {
    const bool written = std::fwrite(buffer_.data(), 1, buffer_.size(), stdout) == buffer_.size();
    check(written && std::fflush(stdout) == 0, "data: the output cannot be written");
    buffer_.clear();
  }
  bool json_;
  int64_t count_ = 0;
  std::string buffer_;
};

bool is_gzip(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return file.get() == 0x1F && file.get() == 0x8B;
}

// Returns the number of bytes. What is packed is unpacked in memory.
int64_t print_ids(const Tokenizer& tokenizer, const std::string& path, Printer& printer) {
  if (path != kInput && is_gzip(path)) {
    const std::string text = read_maybe_gzip(path);
    for (const int64_t id : tokenizer.encode(text)) printer.add(id);
    return static_cast<int64_t>(text.size());
  }
  TokenReader reader(path, tokenizer, kBlock);
  for (std::vector<int64_t> ids; reader.read(ids); ids.clear()) {
    for (const int64_t id : ids) printer.add(id);
  }
  return reader.bytes();
}

int run(const Options& o) {
  const auto tokenizer = open_tokenizer(o.tokenizer);
  const auto start = std::chrono::steady_clock::now();
  Printer printer(o.json);
  const int64_t bytes = print_ids(*tokenizer, o.text, printer);
  const int64_t tokens = printer.finish();
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  fmt::print(stderr, "{} tokens of {} bytes, {:.1f} MB/s\n", tokens, bytes,
             static_cast<double>(bytes) / 1e6 / seconds);
  return 0;
}

}  // namespace

void add_tokenize(Command data) {
  auto o = std::make_shared<Options>();
  Command command = data.add_subcommand("tokenize", "print the ids of a text of any length");
  command
      .add_option("tokenizer", o->tokenizer,
                  "tokenizer.json, vocab.txt, tokenizer.bin of llama2.c, or a folder")
      .required();
  command.add_option("text", o->text, "a text file, .gz too; without it standard input");
  command.add_flag("--json", o->json, "as a JSON list");
  command.callback([o] { set_exit_code(run(*o)); });
}

}  // namespace tessera::cli
