// Ids of a text file that is read piece by piece.
#pragma once

#include <fstream>
#include <string>
#include <vector>

#include "tessera/data/tokenizer.h"

namespace tessera {

// The ids of a whole text, whatever its size: pieces end where the tokenizer says that it may be
// divided. Text of 64 MiB without such a place is refused.
class TokenReader {
 public:
  // Throws Error when the file cannot be read.
  TokenReader(const std::string& path, const Tokenizer& tokenizer, size_t piece = 1 << 20);
  // Appends the ids of the next piece; false at the end of the file.
  bool read(std::vector<int64_t>& ids);
  int64_t bytes() const { return bytes_; }  // of the pieces so far

 private:
  const Tokenizer* tokenizer_;
  std::string path_;
  std::ifstream file_;
  size_t piece_;
  std::string text_;
  int64_t bytes_ = 0;
};

}  // namespace tessera
