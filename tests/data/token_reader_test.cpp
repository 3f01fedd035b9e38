#include "tessera/data/token_reader.h"

#include <doctest/doctest.h>

#include <fstream>

#include "../core/temporary_folder.h"
#include "tessera/core/error.h"
#include "tessera/data/bpe.h"

using namespace tessera;
using tessera_tests::TemporaryFolder;

namespace {

std::vector<int64_t> in_pieces(const std::string& text, const Tokenizer& tokenizer, size_t piece) {
  TemporaryFolder folder;
  std::ofstream(folder / "text", std::ios::binary) << text;
  TokenReader reader(folder / "text", tokenizer, piece);
  std::vector<int64_t> ids;
  while (reader.read(ids)) {
  }
  CHECK(reader.bytes() == static_cast<int64_t>(text.size()));
  return ids;
}

// A vocabulary of characters with a space before the text, as Llama 2's.
BpeModel marked() {
  BpeModel model;
  for (const char* token : {"\u2581", "a", "b", "\u2581a", "ab", "\u2581ab"}) {
    model.tokens.emplace_back(token);
  }
  model.merges = {{0, 1}, {1, 2}, {3, 2}};
  model.characters = model.space_prefix = true;
  model.pieces = PieceRule::whole;
  return model;
}

}  // namespace

TEST_CASE("a text read in pieces has the ids of the whole") {
  const std::string text =
      "It's  the  theme,\n\n of 1234 theses...\nthen   thé \u20AC\U0001F600 \t end. \n 12 's "
      "x\xFF\xC3 y";
  for (const PieceRule rule : {PieceRule::gpt2, PieceRule::llama3, PieceRule::qwen2}) {
    const BpeTokenizer bpe(train_bpe(text + text, 300, rule));
    for (size_t piece = 24; piece < 90; ++piece) {
      CAPTURE(piece);
      CHECK(in_pieces(text, bpe, piece) == bpe.encode(text));
    }
  }
  const ByteTokenizer bytes;
  for (size_t piece = 1; piece < 9; ++piece) {
    CHECK(in_pieces(text, bytes, piece) == bytes.encode(text));
  }
  CHECK(in_pieces("", bytes, 4).empty());
}

TEST_CASE("what goes before a text does not go before its pieces") {
  const BpeTokenizer t(marked());
  const std::string text = "ab a ab ab a b ab";
  for (size_t piece = 4; piece < 20; ++piece) {
    CAPTURE(piece);
    CHECK(in_pieces(text, t, piece) == t.encode(text));
  }
}

TEST_CASE("characters stay whole where a text has no spaces") {
  CharTokenizer characters;
  characters.learn("é€\U0001F600x");
  const std::string text = "é€\U0001F600xé€\U0001F600\U0001F600xxx€";
  for (size_t piece = 1; piece < 12; ++piece) {
    CAPTURE(piece);
    CHECK(in_pieces(text, characters, piece) == characters.encode(text));
  }
}

TEST_CASE("ids are read as they are printed, whatever their number") {
  TemporaryFolder folder;
  const ByteTokenizer bytes;
  const auto of = [&](const std::string& text) {
    std::ofstream(folder / "ids", std::ios::binary) << text;
    IdReader reader(folder / "ids", bytes);
    std::vector<int64_t> ids;
    while (reader.read(ids)) {
    }
    CHECK(reader.bytes() == static_cast<int64_t>(ids.size()));
    return ids;
  };
  CHECK(of("").empty());
  CHECK(of(" 7\n255\t0 ") == std::vector<int64_t>{7, 255, 0});
  std::string many;
  for (int i = 0; i < 70000; ++i) many += "65 ";
  CHECK(of(many) == std::vector<int64_t>(70000, 65));
  for (const char* wrong : {"1 x", "1 2.5", "1 2,", "1 99999999999999999999", "1 +2"}) {
    CHECK_THROWS_WITH_AS(of(wrong), doctest::Contains("ids: id 1: wants decimal numbers"), Error);
  }
  CHECK_THROWS_WITH_AS(of("1 256"), doctest::Contains("id 1 is 256, the vocabulary has 256"),
                       Error);
  CHECK_THROWS_WITH_AS(of("-1"), doctest::Contains("id 0 is -1"), Error);
  CHECK_THROWS_WITH_AS(IdReader("/tmp", bytes), doctest::Contains("directory"), Error);
}

TEST_CASE("a file that cannot be read is named") {
  const ByteTokenizer bytes;
  CHECK_THROWS_WITH_AS(TokenReader("nowhere", bytes), doctest::Contains("cannot be read"), Error);
  CHECK_THROWS_WITH_AS(TokenReader("/tmp", bytes), doctest::Contains("directory"), Error);
}
