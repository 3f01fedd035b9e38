#include "tessera/data/bpe.h"

#include <doctest/doctest.h>

#include "support.h"
#include "tessera/core/file.h"
#include "tessera/data/utf8.h"

using namespace tessera;

namespace {

using Ids = std::vector<int64_t>;
using Pieces = std::vector<std::string>;

Pieces pieces_of(std::string_view text, PieceRule rule) {
  Pieces pieces;
  for_each_piece(text, rule, [&](std::string_view piece) { pieces.emplace_back(piece); });
  return pieces;
}

// GPT-2's own vocabulary, if the data sets are here.
const BpeTokenizer* gpt2() {
  static const std::unique_ptr<BpeTokenizer> tokenizer = [] {
    const auto folder = data_folder("tokenizer_gpt2");
    return folder ? std::make_unique<BpeTokenizer>(read_bpe(*folder)) : nullptr;
  }();
  return tokenizer.get();
}

constexpr std::string_view kNasty =
    "It's  they'LL\r\n\r\n\t x\xC3\xA9\xCC\x81 \xF0\x9F\x98\x80\xE2\x80\x8D\xF0\x9F\x91\xA9 "
    "12345 \xE4\xBD\xA0\xE5\xA5\xBD \xFF\xC3( \x01\x7F end  ";

}  // namespace

TEST_CASE("GPT-2's pieces: contractions, one leading space, runs of spaces give up their last") {
  CHECK(pieces_of("Hello world's 42!? x", PieceRule::gpt2) ==
        Pieces{"Hello", " world", "'s", " 42", "!?", " x"});
  CHECK(pieces_of("a   b\n\nc  ", PieceRule::gpt2) ==
        Pieces{"a", "  ", " b", "\n", "\n", "c", "  "});
  CHECK(pieces_of("I'LL 'tis", PieceRule::gpt2) == Pieces{"I", "'", "LL", " '", "tis"});
  CHECK(pieces_of(" \xC2\xA0x", PieceRule::gpt2) == Pieces{" ", "\xC2\xA0", "x"});
}

TEST_CASE("Llama 3's pieces: any case, three digits, punctuation takes line breaks along") {
  CHECK(pieces_of("I'LL pay 12345 $!\n\nok", PieceRule::llama3) ==
        Pieces{"I", "'LL", " pay", " ", "123", "45", " $!\n\n", "ok"});
  CHECK(pieces_of("a \n \n b", PieceRule::llama3) == Pieces{"a", " \n \n", " b"});
  CHECK(pieces_of("\tfn(x)", PieceRule::llama3) == Pieces{"\tfn", "(x", ")"});
  CHECK(pieces_of("2024", PieceRule::qwen2) == Pieces{"2", "0", "2", "4"});
}

TEST_CASE("pieces are the text, whatever its bytes") {
  for (const PieceRule rule :
       {PieceRule::whole, PieceRule::gpt2, PieceRule::llama3, PieceRule::qwen2}) {
    std::string joined;
    for (const std::string& piece : pieces_of(kNasty, rule)) {
      CHECK_FALSE(piece.empty());
      joined += piece;
    }
    CHECK(joined == kNasty);
  }
}

TEST_CASE("every byte has a symbol, and symbols come back") {
  std::string bytes;
  for (int b = 0; b < 256; ++b) bytes += static_cast<char>(b);
  CHECK(from_byte_symbols(to_byte_symbols(bytes)) == bytes);
  CHECK(to_byte_symbols(" \n!") == "\xC4\xA0\xC4\x8A!");
  CHECK_FALSE(from_byte_symbols("\xE2\x96\x81").has_value());
}

TEST_CASE("GPT-2's ids") {
  const BpeTokenizer* t = gpt2();
  if (t == nullptr) return;
  CHECK(t->vocabulary() == 50257);
  CHECK(t->encode("Hello world") == Ids{15496, 995});
  CHECK(t->encode("Hello, world!") == Ids{15496, 11, 995, 0});
  CHECK(t->encode(" Hello") == Ids{18435});
  CHECK(t->encode("hello") == Ids{31373});
  CHECK(t->encode("\n") == Ids{198});
  CHECK(t->encode("\n\n") == Ids{628});
  CHECK(t->encode(" ") == Ids{220});
  CHECK(t->encode("").empty());
  CHECK(t->model().specials.at("<|endoftext|>") == 50256);
  const Ids plain = t->encode("<|endoftext|>");
  CHECK(std::find(plain.begin(), plain.end(), 50256) == plain.end());
  CHECK(t->decode(t->encode(kNasty)) == kNasty);
  CHECK(t->decode(Ids{50256}) == "<|endoftext|>");
}

TEST_CASE("a long piece without spaces merges as a short one does") {
  const BpeTokenizer* t = gpt2();
  if (t == nullptr) return;
  std::string word;
  for (int i = 0; i < 20000; ++i) word += "ab"[i % 2];
  const Ids ids = t->encode(word);
  CHECK(t->decode(ids) == word);
  CHECK(ids.size() < word.size());
}

TEST_CASE("pairs that occur equally often merge in the order of their ids") {
  const BpeTokenizer t(train_bpe("ab cd ab cd", 258, PieceRule::gpt2));
  CHECK(t.model().tokens[256] == " c");
  CHECK(t.model().tokens[257] == "ab");
}

TEST_CASE(
    "a vocabulary learned from text merges its most frequent pairs and makes the round trip") {
  const std::string text = "low low low lower lowest newer newer wider wider new new";
  const BpeTokenizer t(train_bpe(text, 270, PieceRule::gpt2, {"<end>"}));
  CHECK(t.vocabulary() <= 270);
  CHECK(t.model().tokens[256] == "er");  // lower, and newer and wider twice each: 5
  CHECK(t.model().specials.at("<end>") == t.vocabulary() - 1);
  CHECK(t.decode(t.encode(text)) == text);
  CHECK(t.decode(t.encode(kNasty)) == kNasty);
  CHECK(t.encode("low").size() < 3);
  CHECK_THROWS_WITH_AS(train_bpe(text, 100, PieceRule::gpt2), doctest::Contains("256 bytes"),
                       Error);
}

TEST_CASE("a vocabulary is the same behind its files and behind a run's state") {
  const ScratchFolder folder;
  const BpeTokenizer t(train_bpe("the theme of the thesis then", 280, PieceRule::gpt2));
  write_bpe(t.model(), folder.path);
  const BpeTokenizer again(read_bpe(folder.path));
  CHECK(again.model().tokens == t.model().tokens);
  CHECK(again.model().merges == t.model().merges);
  const auto stored = from_json<Choice<Tokenizer>>(parse_json(t.state().dump(), "state"));
  CHECK(stored.build(DataContext{})->encode("the thesis") == t.encode("the thesis"));
}

TEST_CASE("a tokenizer.json of Llama's kind: marks for spaces, bytes for unknown characters") {
  const ScratchFolder folder;
  std::string vocabulary = R"("<unk>": 0, "<s>": 1, "</s>": 2)";
  int id = 3;
  for (int b = 0; b < 256; ++b) vocabulary += fmt::format(R"(, "<0x{:02X}>": {})", b, id++);
  for (const char* token : {"\xE2\x96\x81", "a", "b", "ab",
                            "\xE2\x96\x81"
                            "ab"}) {
    vocabulary += fmt::format(R"(, "{}": {})", token, id++);
  }
  write_file_atomic((folder.path / "tokenizer.json").string(),
                    R"({"added_tokens": [{"id": 1, "content": "<s>", "special": true}],
          "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]},
          "model": {"type": "BPE", "byte_fallback": true, "vocab": {)" +
                        vocabulary + R"(}, "merges": ["a b", "▁ ab"]}})");
  const BpeTokenizer t(read_bpe(folder.path));
  CHECK(t.encode("ab b") == Ids{263, 259, 261});
  CHECK(t.decode(t.encode("ab \xC3\xA9")) == " ab \xC3\xA9");
}

TEST_CASE("the tokens before and behind a text are those that the files name") {
  const ScratchFolder folder;
  const auto write = [&](const char* name, const std::string& text) {
    write_file_atomic((folder.path / name).string(), text);
  };
  const auto tokenizer = [&](const std::string& processor) {
    write("tokenizer.json", R"({"model": {"vocab": {"a": 0}, "merges": []}, "added_tokens": [
      {"id": 1, "content": "<s>", "special": true}, {"id": 2, "content": "</s>", "special": true}],
      "post_processor": )" + processor +
                                "}");
    return BpeTokenizer(read_bpe(folder.path));
  };
  const char* kTemplate = R"({"type": "Sequence", "processors": [{"type": "ByteLevel"},
    {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
    {"Sequence": {"id": "A", "type_id": 0}}]}]})";
  const BpeTokenizer plain = tokenizer("null");
  CHECK_FALSE(plain.begin_of_text().has_value());
  CHECK_FALSE(plain.end_of_text().has_value());
  CHECK(tokenizer(kTemplate).begin_of_text() == 1);
  CHECK(tokenizer(R"({"type": "RobertaProcessing", "cls": ["<s>", 1], "sep": ["</s>", 2]})")
            .end_of_text() == 2);

  write("tokenizer_config.json", R"({"bos_token": "<s>", "eos_token": {"content": "</s>"}})");
  CHECK_FALSE(tokenizer("null").begin_of_text().has_value());  // named, but not added
  const BpeTokenizer both = tokenizer(kTemplate);
  CHECK(both.begin_of_text() == 1);
  CHECK(both.end_of_text() == 2);
  const auto stored = from_json<Choice<Tokenizer>>(parse_json(both.state().dump(), "state"));
  CHECK(stored.build(DataContext{})->begin_of_text() == 1);
  CHECK(stored.build(DataContext{})->end_of_text() == 2);

  write("tokenizer_config.json", R"({"bos_token": "<s>", "add_bos_token": true})");
  CHECK(tokenizer("null").begin_of_text() == 1);
  write("tokenizer_config.json", R"({"bos_token": "<s>", "add_bos_token": false})");
  CHECK_FALSE(tokenizer(kTemplate).begin_of_text().has_value());
  write("special_tokens_map.json", R"({"eos_token": "</t>"})");
  CHECK_THROWS_WITH_AS(tokenizer("null"), doctest::Contains(R"("</t>" goes before or behind)"),
                       Error);
}

TEST_CASE("GPT-2 ends a text with its only special token and begins it with none") {
  const BpeTokenizer* t = gpt2();
  if (t == nullptr) return;
  CHECK_FALSE(t->begin_of_text().has_value());
  CHECK(t->end_of_text() == 50256);
}

TEST_CASE("files that are no vocabulary are refused in one line that names them") {
  const ScratchFolder folder;
  const auto refused = [&](const char* name, const char* text, const char* why) {
    const std::string path = (folder.path / name).string();
    write_file_atomic(path, text);
    CHECK_THROWS_WITH_AS(read_bpe(path), doctest::Contains(why), Error);
  };
  refused("a.json", "{", "not JSON at byte");
  refused("b.json", "[]", "no model");
  refused("c.json", R"({"model": {"type": "WordPiece"}})", "WordPiece");
  refused("d.json", R"({"model": {"vocab": {"a": 0, "b": 2}}})", "ids must be 0 to 1");
  refused("f.json", R"({"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 1}]})",
          "not a vocabulary");
  refused("e.json", R"({"model": {"vocab": {"a": 0}, "merges": ["a z"]}})", "merge 1");
  CHECK_THROWS_WITH_AS(read_bpe(folder.path), doctest::Contains("holds no tokenizer.json"), Error);
}
