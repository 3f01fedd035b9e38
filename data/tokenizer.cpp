#include "tessera/data/tokenizer.h"

#include <algorithm>

#include "tessera/config/json.h"
#include "tessera/core/error.h"

namespace tessera {

namespace {

void check_ids(std::span<const int64_t> ids, int64_t vocabulary) {
  for (int64_t id : ids) {
    check(id >= 0 && id < vocabulary, "tokenizer: id {} is outside the vocabulary of {}", id,
          vocabulary);
  }
}

}  // namespace

TESSERA_REGISTER(Tokenizer, ByteTokenizer, "byte", "The bytes of the text: 256 tokens", "");
TESSERA_REGISTER(Tokenizer, CharTokenizer, "char", "The distinct characters of the training text",
                 "");

std::vector<int64_t> ByteTokenizer::encode(std::string_view text) const {
  std::vector<int64_t> ids(text.size());
  std::transform(text.begin(), text.end(), ids.begin(),
                 [](char c) { return static_cast<unsigned char>(c); });
  return ids;
}

std::string ByteTokenizer::decode(std::span<const int64_t> ids) const {
  check_ids(ids, vocabulary());
  std::string text(ids.size(), '\0');
  std::transform(ids.begin(), ids.end(), text.begin(),
                 [](int64_t id) { return static_cast<char>(id); });
  return text;
}

Json ByteTokenizer::state() const {
  return Json{{"type", "byte"}};
}

CharTokenizer::CharTokenizer(const Config& config, const DataContext&)
    : fixed_(!config.alphabet.empty()) {
  std::u32string alphabet;
  int64_t last = -1;
  for (int64_t symbol : config.alphabet) {
    check(symbol > last && symbol < int64_t{kSymbols},
          "char tokenizer: the alphabet must ascend from 0 to {}, it has {} behind {}",
          int64_t{kSymbols} - 1, symbol, last);
    alphabet.push_back(static_cast<char32_t>(symbol));
    last = symbol;
  }
  set_alphabet(std::move(alphabet));
}

Json CharTokenizer::state() const {
  Json alphabet = Json::array();
  for (char32_t symbol : alphabet_) alphabet.push_back(static_cast<int64_t>(symbol));
  return Json{{"type", "char"}, {"alphabet", alphabet}};
}

void CharTokenizer::learn(std::string_view text) {
  if (fixed_) return;
  std::vector<bool> seen(kSymbols);
  for (char32_t symbol : alphabet_) seen[symbol] = true;
  for (size_t at = 0; at < text.size();) {
    const Utf8Symbol symbol = next_symbol(text, at);
    seen[symbol.value] = true;
    at += static_cast<size_t>(symbol.length);
  }
  std::u32string alphabet;
  for (char32_t symbol = 0; symbol < kSymbols; ++symbol) {
    if (seen[symbol]) alphabet.push_back(symbol);
  }
  set_alphabet(std::move(alphabet));
}

void CharTokenizer::set_alphabet(std::u32string alphabet) {
  alphabet_ = std::move(alphabet);
  ids_.assign(alphabet_.empty() ? 0 : alphabet_.back() + 1, -1);
  for (size_t i = 0; i < alphabet_.size(); ++i) ids_[alphabet_[i]] = static_cast<int32_t>(i);
}

std::vector<int64_t> CharTokenizer::encode(std::string_view text) const {
  std::vector<int64_t> ids;
  ids.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const Utf8Symbol symbol = next_symbol(text, at);
    const int32_t id = symbol.value < ids_.size() ? ids_[symbol.value] : -1;
    check(id >= 0,
          "char tokenizer: {} at byte {} is not among the {} characters of the training "
          "text",
          describe_symbol(symbol.value), at, alphabet_.size());
    ids.push_back(id);
    at += static_cast<size_t>(symbol.length);
  }
  return ids;
}

size_t CharTokenizer::last_cut(std::string_view text) const {
  const auto ascii = std::find_if(text.rbegin(), text.rend(),
                                  [](char c) { return static_cast<unsigned char>(c) < 128; });
  return static_cast<size_t>(text.rend() - ascii);
}

std::string CharTokenizer::decode(std::span<const int64_t> ids) const {
  check_ids(ids, vocabulary());
  std::string text;
  for (int64_t id : ids) append_symbol(text, alphabet_[static_cast<size_t>(id)]);
  return text;
}

}  // namespace tessera
