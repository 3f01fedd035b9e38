#include "tessera/config/registry.h"
#include "tessera/core/file.h"
#include "tessera/data/gzip.h"
#include "tessera/data/token_windows.h"

namespace tessera {

namespace {

constexpr size_t kPiece = size_t{16} << 20;  // bytes whose ids exist as whole numbers at a time

struct TextConfig {
  std::string path = "tiny_shakespeare/input.txt";
  std::string test_path;
  Choice<Tokenizer> tokenizer{"char"};
  int64_t context = 64;
  double train_fraction = 0.9;
  TESSERA_FIELDS(f)
  {
    f("path", path,
      "a text file, or a folder whose *.txt files are joined in order of their names");
    f("test_path", test_path, "text of the test split; empty: the validation text");
    f("tokenizer", tokenizer, "how text becomes tokens");
    f("context", context, "tokens in a window").min(1).max(1 << 24);
    f("train_fraction", train_fraction, "the first part trains, the rest validates")
        .min(0.01)
        .max(0.99);
  }
};

std::string read_text(const std::filesystem::path& path) {
  if (!std::filesystem::is_directory(path)) return read_maybe_gzip(path);
  std::string text;
  for (const auto& file : list_folder(path)) {
    if (file.extension() == ".txt") text += read_file(file.string());
  }
  check(!text.empty(), "data.path: no text in *.txt files of {}", path.string());
  return text;
}

// Piece by piece: 64-bit ids of all of a text would take eight times its memory.
void append_text(TokenStream& stream, const Tokenizer& tokenizer, std::string_view text) {
  for (size_t at = 0, size = 0; at < text.size(); at += size) {
    const bool last = text.size() - at <= kPiece;
    size = last ? text.size() - at : tokenizer.last_cut(text.substr(at, kPiece));
    if (size == 0) size = text.size() - at;
    const std::string_view piece = text.substr(at, size);
    try {
      stream.append(at == 0 ? tokenizer.encode(piece) : tokenizer.encode_more(piece));
    } catch (const Error& error) {
      check(at == 0, "data.path: counted from byte {} of the text: {}", at, error.what());
      throw;
    }
  }
}

Corpus load_corpus(const TextConfig& config, const DataContext& context) {
  const std::string text = read_text(find_data(config.path, context, "data.path"));
  std::string test;
  if (!config.test_path.empty()) {
    test = read_text(find_data(config.test_path, context, "data.test_path"));
  }
  auto tokenizer = config.tokenizer.build(context);
  tokenizer->learn(text);
  if (!test.empty()) tokenizer->learn(test);
  TokenStream all(tokenizer->vocabulary());
  append_text(all, *tokenizer, text);
  const auto cut = static_cast<int64_t>(static_cast<double>(all.size()) * config.train_fraction);
  TokenStream validation = all.slice(cut, all.size());
  TokenStream held_out = validation;
  if (!config.test_path.empty()) {
    held_out = TokenStream(tokenizer->vocabulary());
    append_text(held_out, *tokenizer, test);
  }
  return {std::move(tokenizer), all.slice(0, cut), std::move(validation), std::move(held_out)};
}

struct TextDataset : WindowDataset {
  using Config = TextConfig;
  TextDataset(const Config& c, const DataContext& context)
      : WindowDataset("data.text", load_corpus(c, context), c.context) {}
};
TESSERA_REGISTER(Dataset, TextDataset, "text", "Windows of one long text", "any text file");

}  // namespace

}  // namespace tessera
