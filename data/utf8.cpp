#include "tessera/data/utf8.h"

#include "tessera/core/error.h"

namespace tessera {

namespace {

// Bytes of the sequence that `lead` opens, 0 for a byte that opens none.
int sequence_length(unsigned char lead) {
  if (lead < 0x80) return 1;
  if (lead >= 0xC2 && lead <= 0xDF) return 2;
  if (lead >= 0xE0 && lead <= 0xEF) return 3;
  if (lead >= 0xF0 && lead <= 0xF4) return 4;
  return 0;
}

// Whether `byte` may stand second after `lead`: this is where overlong forms, surrogates and code
// points beyond U+10FFFF are refused (Unicode standard, table 3-7).
bool second_fits(unsigned char lead, unsigned char byte) {
  const unsigned low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const unsigned high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  return byte >= low && byte <= high;
}

// Bytes at the end of `text` that may be the beginning of a longer sequence.
size_t open_tail(std::string_view text) {
  for (size_t back = 1; back <= 3 && back <= text.size(); ++back) {
    const std::string_view tail = text.substr(text.size() - back);
    const auto lead = static_cast<unsigned char>(tail[0]);
    if ((lead & 0xC0) == 0x80) continue;
    const bool open = static_cast<size_t>(sequence_length(lead)) > back;
    return open && (back < 2 || second_fits(lead, static_cast<unsigned char>(tail[1]))) ? back : 0;
  }
  return 0;
}

std::string valid_utf8(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const Utf8Symbol symbol = next_symbol(text, at);
    append_symbol(out, symbol.value < kInvalidByte ? symbol.value : U'\uFFFD');
    at += static_cast<size_t>(symbol.length);
  }
  return out;
}

}  // namespace

Utf8Symbol next_symbol(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[at + i]); };
  const unsigned char lead = byte(0);
  const Utf8Symbol invalid{kInvalidByte + lead, 1};
  const auto length = static_cast<size_t>(sequence_length(lead));
  if (length == 1) return {lead, 1};
  if (length == 0 || length > text.size() - at || !second_fits(lead, byte(1))) return invalid;
  char32_t value = lead & (0x7Fu >> length);
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return invalid;
    value = (value << 6) | (byte(i) & 0x3Fu);
  }
  return {value, static_cast<int>(length)};
}

void append_symbol(std::string& text, char32_t symbol) {
  const auto put = [&](char32_t byte) { text.push_back(static_cast<char>(byte)); };
  if (symbol >= kInvalidByte) {
    put(symbol - kInvalidByte);
  } else if (symbol < 0x80) {
    put(symbol);
  } else if (symbol < 0x800) {
    put(0xC0 | (symbol >> 6));
    put(0x80 | (symbol & 0x3F));
  } else if (symbol < 0x10000) {
    put(0xE0 | (symbol >> 12));
    put(0x80 | ((symbol >> 6) & 0x3F));
    put(0x80 | (symbol & 0x3F));
  } else {
    put(0xF0 | (symbol >> 18));
    put(0x80 | ((symbol >> 12) & 0x3F));
    put(0x80 | ((symbol >> 6) & 0x3F));
    put(0x80 | (symbol & 0x3F));
  }
}

std::string describe_symbol(char32_t symbol) {
  const auto value = static_cast<uint32_t>(symbol);
  if (symbol >= kInvalidByte) return fmt::format("byte 0x{:02X}", value - kInvalidByte);
  if (symbol < 0x20 || symbol == 0x7F) return fmt::format("U+{:04X}", value);
  std::string text;
  append_symbol(text, symbol);
  return fmt::format("'{}' (U+{:04X})", text, value);
}

std::string Utf8Stream::push(std::string_view bytes) {
  held_ += bytes;
  const size_t whole = held_.size() - open_tail(held_);
  std::string out = valid_utf8(std::string_view(held_).substr(0, whole));
  held_.erase(0, whole);
  return out;
}

std::string Utf8Stream::finish() {
  std::string out = valid_utf8(held_);
  held_.clear();
  return out;
}

}  // namespace tessera
