#include "tessera/inference/text_stream.h"

#include <algorithm>

#include "tessera/core/error.h"

namespace tessera {
namespace {

// Bytes at the end of `text` that begin one of the strings.
size_t open_tail(std::string_view text, const std::vector<std::string>& strings) {
  size_t longest = 0;
  for (const std::string& s : strings) {
    for (size_t n = std::min(text.size(), s.size() - 1); n > longest; --n) {
      if (text.substr(text.size() - n) == std::string_view(s).substr(0, n)) longest = n;
    }
  }
  return longest;
}

}  // namespace

TextStream::TextStream(const Tokenizer& tokenizer, std::vector<std::string> stops)
    : tokenizer_(&tokenizer), stops_(std::move(stops)) {
  for (const std::string& s : stops_) check(!s.empty(), "generate: a stop string is empty");
}

std::string TextStream::push(int64_t token) {
  if (stopped_) return {};
  if (token < tokenizer_->vocabulary()) held_ += tokenizer_->decode(std::span(&token, 1));
  size_t end = std::string::npos;
  for (const std::string& s : stops_) end = std::min(end, held_.find(s));
  stopped_ = end != std::string::npos;
  if (!stopped_) end = held_.size() - open_tail(held_, stops_);
  std::string out = characters_.push(std::string_view(held_).substr(0, end));
  held_.erase(0, stopped_ ? held_.size() : end);
  if (stopped_) out += characters_.finish();
  return out;
}

std::string TextStream::finish() {
  std::string out = characters_.push(held_);
  out += characters_.finish();
  held_.clear();
  return out;
}

}  // namespace tessera
