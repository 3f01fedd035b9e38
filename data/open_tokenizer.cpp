#include "tessera/core/error.h"
#include "tessera/data/bpe.h"
#include "tessera/data/tokenizer_files.h"
#include "tessera/data/wordpiece.h"

namespace tessera {
namespace {
namespace fs = std::filesystem;

bool is_wordpiece(const fs::path& path) {
  if (fs::is_directory(path)) {
    if (fs::exists(path / "tokenizer.json")) return is_wordpiece(path / "tokenizer.json");
    return fs::exists(path / "vocab.txt");
  }
  if (path.extension() != ".json") return path.extension() == ".txt";
  return member(member(read_plain_json(path), "model"), "type") == "WordPiece";
}

void widen(std::vector<std::string>& tokens, int64_t size, const fs::path& path) {
  if (size == 0) return;
  const auto own = static_cast<int64_t>(tokens.size());
  check(own <= size, "{}: the tokenizer has {} tokens, the model only {}", path.string(), own,
        size);
  tokens.resize(static_cast<size_t>(size));
}

}  // namespace

bool has_tokenizer(const fs::path& folder) {
  for (const char* name : {"tokenizer.json", "vocab.json", "encoder.json", "vocab.txt"}) {
    if (fs::exists(folder / name)) return true;
  }
  return false;
}

std::unique_ptr<Tokenizer> open_tokenizer(const fs::path& path, int64_t size) {
  check(fs::exists(path), "{}: no such file or folder", path.string());
  if (is_wordpiece(path)) {
    WordPieceModel model = read_wordpiece(path);
    widen(model.tokens, size, path);
    return std::make_unique<WordPieceTokenizer>(std::move(model));
  }
  BpeModel model = read_bpe(path);
  widen(model.tokens, size, path);
  return std::make_unique<BpeTokenizer>(std::move(model));
}

}  // namespace tessera
