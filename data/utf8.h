// UTF-8 without surprises: every byte string splits into symbols and comes back the same.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace tessera {

// A symbol is a Unicode code point or, for byte b of an invalid sequence, kInvalidByte + b: values
// beyond Unicode, so that the two never meet and any byte string makes the round trip.
constexpr char32_t kInvalidByte = 0x110000;
constexpr char32_t kSymbols = kInvalidByte + 256;

struct Utf8Symbol {
  char32_t value;
  int length;  // bytes taken
};

// The symbol at text[at], at < text.size(). Strict: overlong forms, surrogates, code points beyond
// U+10FFFF and cut sequences are invalid, one byte at a time.
Utf8Symbol next_symbol(std::string_view text, size_t at);
void append_symbol(std::string& text, char32_t symbol);  // the inverse; symbol < kSymbols

// Shows a symbol in a message: 'a', U+00E9 or byte 0xFF.
std::string describe_symbol(char32_t symbol);

// Joins pieces of bytes (tokens that arrive one by one) into valid UTF-8: a sequence that is not
// whole yet is held back, an invalid byte becomes U+FFFD.
class Utf8Stream {
 public:
  std::string push(std::string_view bytes);
  std::string finish();  // what was held back; call at the end

 private:
  std::string held_;
};

}  // namespace tessera
