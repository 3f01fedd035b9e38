#include "tessera/data/token_reader.h"

#include <filesystem>

#include "tessera/core/error.h"

namespace tessera {
namespace {

bool is_space(char c) {
  return c == ' ' || (c >= '\t' && c <= '\r');
}

// Where `text`, which goes on, is cut; 0 when more of it must be seen.
size_t cut_of(std::string_view text) {
  for (size_t at = text.size() - 1; at > 0; --at) {
    if (text[at] == ' ' && !is_space(text[at - 1])) return at;
  }
  // Before the last character, which may not be whole.
  for (size_t at = text.size() - 1; text.size() - at <= 4; --at) {
    if ((static_cast<unsigned char>(text[at]) & 0xC0) != 0x80) return at;
    if (at == 0) return 0;
  }
  return text.size();  // no UTF-8
}

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
    end = file_.eof() ? text_.size() : cut_of(text_);
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
