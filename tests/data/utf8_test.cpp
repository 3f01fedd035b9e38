#include "tessera/data/utf8.h"

#include <doctest/doctest.h>

using namespace tessera;

namespace {

std::string round_trip(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const Utf8Symbol symbol = next_symbol(text, at);
    append_symbol(out, symbol.value);
    at += static_cast<size_t>(symbol.length);
  }
  return out;
}

}  // namespace

TEST_CASE("every code point is one symbol and comes back") {
  for (char32_t c = 0; c < kInvalidByte; ++c) {
    if (c >= 0xD800 && c <= 0xDFFF) continue;
    std::string text;
    append_symbol(text, c);
    const Utf8Symbol symbol = next_symbol(text, 0);
    REQUIRE(symbol.value == c);
    REQUIRE(static_cast<size_t>(symbol.length) == text.size());
  }
}

TEST_CASE("overlong forms, surrogates and cut sequences are invalid bytes") {
  for (const char* text :
       {"\xC0\x80", "\xC1\xBF", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xF0\x8F\xBF\xBF",
        "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\x80", "\xFF", "\xE2\x82", "\xE2\x82z"}) {
    const Utf8Symbol symbol = next_symbol(text, 0);
    CHECK(symbol.value == kInvalidByte + static_cast<unsigned char>(text[0]));
    CHECK(symbol.length == 1);
    CHECK(round_trip(text) == text);
  }
}

TEST_CASE("any three bytes make the round trip") {
  for (uint32_t i = 0; i < 256 * 256 * 256; i += 97) {
    const char bytes[] = {static_cast<char>(i), static_cast<char>(i >> 8),
                          static_cast<char>(i >> 16)};
    const std::string text(bytes, 3);
    REQUIRE(round_trip(text) == text);
  }
}

TEST_CASE("a UTF-8 stream never cuts a sequence") {
  const std::string text = "a\u00e9\u20ac\U0001F600z";
  for (size_t piece = 1; piece <= text.size(); ++piece) {
    Utf8Stream stream;
    std::string out;
    for (size_t at = 0; at < text.size(); at += piece) {
      const std::string part = stream.push(std::string_view(text).substr(at, piece));
      CHECK(round_trip(part) == part);
      for (size_t i = 0; i < part.size();) {
        const Utf8Symbol symbol = next_symbol(part, i);
        CHECK(symbol.value < kInvalidByte);
        i += static_cast<size_t>(symbol.length);
      }
      out += part;
    }
    CHECK(out + stream.finish() == text);
  }
}

TEST_CASE("a UTF-8 stream shows invalid bytes as U+FFFD and does not hold them back") {
  Utf8Stream stream;
  CHECK(stream.push("\xFF") == "\uFFFD");
  CHECK(stream.push("\xE2\x82") == "");
  CHECK(stream.push("x") == "\uFFFD\uFFFDx");
  CHECK(stream.push("\xF0\x9F") == "");
  CHECK(stream.finish() == "\uFFFD\uFFFD");
}
