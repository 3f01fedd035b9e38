#include "tessera/data/token_reader.h"

#include <filesystem>

#include "tessera/core/error.h"

namespace tessera {
namespace {

constexpr size_t kLongest = size_t{64} << 20;  // bytes without a place to divide

}  // namespace

TokenReader::TokenReader(const std::string& path, const Tokenizer& tokenizer, size_t piece)
    : tokenizer_(&tokenizer), path_(path), file_(path, std::ios::binary), piece_(piece) {
  check(!std::filesystem::is_directory(path), "{}: is a directory, not a text file", path);
  check(file_.good(), "{}: cannot be read", path);
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

}  // namespace tessera
