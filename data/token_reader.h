// Ids of a file that is read piece by piece.
#pragma once

#include <fstream>
#include <string>
#include <vector>

#include "tessera/data/tokenizer.h"

namespace tessera {

struct TokenSource {
  virtual ~TokenSource() = default;
  // Appends the ids of the next piece; false at the end of the file.
  virtual bool read(std::vector<int64_t>& ids) = 0;
  virtual int64_t bytes() const = 0;  // of text, in the pieces so far
};

// The ids of a whole text, whatever its size: pieces end where the tokenizer says that it may be
// divided. Text of 64 MiB without such a place is refused.
class TokenReader : public TokenSource {
 public:
  // Throws Error when the file cannot be read.
  TokenReader(const std::string& path, const Tokenizer& tokenizer, size_t piece = 1 << 20);
  bool read(std::vector<int64_t>& ids) override;
  int64_t bytes() const override { return bytes_; }

 private:
  const Tokenizer* tokenizer_;
  std::string path_;
  std::ifstream file_;
  size_t piece_;
  std::string text_;
  int64_t bytes_ = 0;
};

// Ids as `tessera data tokenize` prints them: decimal numbers with white space between them. Throws
// Error for anything else.
class IdReader : public TokenSource {
 public:
  IdReader(const std::string& path, const Tokenizer& tokenizer);
  bool read(std::vector<int64_t>& ids) override;
  int64_t bytes() const override { return bytes_; }

 private:
  const Tokenizer* tokenizer_;
  std::string path_;
  std::ifstream file_;
  int64_t ids_ = 0;
  int64_t bytes_ = 0;
};

}  // namespace tessera
