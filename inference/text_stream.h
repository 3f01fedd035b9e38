// The text of tokens that arrive one by one.
#pragma once

#include <string>
#include <vector>

#include "tessera/data/tokenizer.h"

namespace tessera {

// Gives valid UTF-8 as soon as it is certain, up to the first of the stop strings, which may begin
// and end inside of tokens: what may be the beginning of a character or of a stop string is held
// back. Ids beyond the vocabulary, which a model may have more of, have no text.
class TextStream {
 public:
  explicit TextStream(const Tokenizer& tokenizer, std::vector<std::string> stops = {});
  std::string push(int64_t token);  // what may be shown now; nothing once stopped
  std::string finish();             // what was held back; call at the end
  bool stopped() const { return stopped_; }

 private:
  const Tokenizer* tokenizer_;
  std::vector<std::string> stops_;
  std::string held_;  // bytes that may begin a stop string
  Utf8Stream characters_;
  bool stopped_ = false;
};

}  // namespace tessera
