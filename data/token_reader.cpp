#include "tessera/data/token_reader.h"

#include <charconv>
#include <filesystem>
#include <iomanip>

#include "tessera/core/error.h"

namespace tessera {
namespace {

constexpr size_t kLongest = size_t{64} << 20;  // bytes without a place to divide
constexpr size_t kIds = size_t{1} << 16;       // at a time

void check_readable(const std::string& path, const std::ifstream& file) {
  check(!std::filesystem::is_directory(path), "{}: is a directory, not a text file", path);
  check(file.good(), "{}: cannot be read", path);
}

}  // namespace

TokenReader::TokenReader(const std::string& path, const Tokenizer& tokenizer, size_t piece)
    : tokenizer_(&tokenizer), path_(path), file_(path, std::ios::binary), piece_(piece) {
  check_readable(path, file_);
}

bool TokenReader::read(std::vector<int64_t>& ids) {
  size_t end = 0;
  while (end == 0) {
    const size_t held = text_.size();
    text_.resize(held + piece_);
    file_.read(text_.data() + held, static_cast<std::streamsize>(piece_));
    text_.resize(held + static_cast<size_t>(file_.gcount()));
    check(!file_.bad(), "{}: cannot be read", path_);
    if (text_.empty()) return false;
    end = file_.eof() ? text_.size() : tokenizer_->last_cut(text_);
    check(end > 0 || text_.size() <= kLongest,
          "{}: {} MiB without a word boundary from byte {} on: too long for one piece of text",
          path_, kLongest >> 20, bytes_);
  }
  const std::string_view piece = std::string_view(text_).substr(0, end);
  const std::vector<int64_t> more =
      bytes_ == 0 ? tokenizer_->encode(piece) : tokenizer_->encode_more(piece);
  ids.insert(ids.end(), more.begin(), more.end());
  bytes_ += static_cast<int64_t>(end);
  text_.erase(0, end);
  return true;
}

IdReader::IdReader(const std::string& path, const Tokenizer& tokenizer)
    : tokenizer_(&tokenizer), path_(path), file_(path, std::ios::binary) {
  check_readable(path, file_);
}

bool IdReader::read(std::vector<int64_t>& ids) {
  std::vector<int64_t> more;
  for (std::string word; more.size() < kIds && file_ >> std::setw(24) >> word;) {
    int64_t id = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), id);
    check(error == std::errc() && end == word.data() + word.size(),
          "{}: id {}: wants decimal numbers with spaces between them, as `tessera data tokenize` "
          "prints them",
          path_, ids_);
    check(id >= 0 && id < tokenizer_->vocabulary(), "{}: id {} is {}, the vocabulary has {}", path_,
          ids_, id, tokenizer_->vocabulary());
    more.push_back(id);
    ++ids_;
  }
  check(!file_.bad(), "{}: cannot be read", path_);
  bytes_ += static_cast<int64_t>(tokenizer_->decode(more).size());
  ids.insert(ids.end(), more.begin(), more.end());
  return !more.empty();
}

}  // namespace tessera
