#include "tessera/inference/text_stream.h"

#include <doctest/doctest.h>

#include "tessera/core/error.h"

using namespace tessera;

namespace {

// Pieces of the text as they are shown, byte by byte, joined by '|'.
std::string shown(const std::string& text, std::vector<std::string> stops = {}) {
  const ByteTokenizer bytes;
  TextStream stream(bytes, std::move(stops));
  std::string out;
  for (const char c : text) out += stream.push(static_cast<unsigned char>(c)) + "|";
  return out + stream.finish();
}

}  // namespace

TEST_CASE("characters are shown whole, and invalid bytes as a replacement") {
  CHECK(shown("aé€") == "a||é|||€|");
  CHECK(shown("a\xFF"
              "b") == "a|\uFFFD|b|");
  CHECK(shown("\xE2\x82") == "||\uFFFD\uFFFD");
}

TEST_CASE("text ends before the first stop string, which is never shown in part") {
  CHECK(shown("one, two", {", "}) == "o|n|e||||||");
  CHECK(shown("ab,c", {", "}) == "a|b||,c|");
  CHECK(shown("xaab!", {"aab"}) == "x|||||");
  CHECK(shown("aaab", {"aab"}) == "||a||");
  CHECK(shown("abcd", {"d", "bc"}) == "a||||");
  CHECK(shown("ab", {"abc"}) == "||ab");
  CHECK(shown("a\xC3", {"\xC3\xA9"}) == "a||\uFFFD");
  CHECK(shown("zé.", {"é"}) == "z||||");
  CHECK(shown("\xC3.", {"."}) == "|\uFFFD|");
}

TEST_CASE("an empty stop string is refused") {
  const ByteTokenizer bytes;
  CHECK_THROWS_WITH_AS(TextStream(bytes, {"a", ""}), doctest::Contains("empty"), Error);
}

TEST_CASE("ids beyond the vocabulary have no text") {
  const ByteTokenizer bytes;
  TextStream stream(bytes);
  CHECK(stream.push('a') + stream.push(256) + stream.push('b') == "ab");
}
