#include "tessera/data/wordpiece.h"

#include <doctest/doctest.h>

#include "support.h"
#include "tessera/core/file.h"
#include "tessera/data/tokenizer_files.h"

using namespace tessera;

namespace {

using Ids = std::vector<int64_t>;

WordPieceTokenizer small(bool lowercase = true) {
  return WordPieceTokenizer({{"[PAD]", "[UNK]", "[CLS]", "[SEP]", "un", "##aff", "##able", "a",
                              "##a", ",", "\xE4\xBD\xA0", "cafe", "Caf\xC3\xA9", "="},
                             lowercase});
}

}  // namespace

TEST_CASE("a word is its longest pieces from the left, or unknown as a whole") {
  const WordPieceTokenizer t = small();
  CHECK(t.encode("unaffable") == Ids{4, 5, 6});
  CHECK(t.encode(" unaffable,a\n") == Ids{4, 5, 6, 9, 7});
  CHECK(t.encode("unaffably a") == Ids{1, 7});
  CHECK(t.encode(std::string(100, 'a')).size() == 100);
  CHECK(t.encode(std::string(101, 'a')) == Ids{1});
  CHECK(t.encode("").empty());
  CHECK(t.encode(" \t\r\n").empty());
  CHECK(t.decode(Ids{4, 5, 6, 9, 7}) == "unaffable , a");
}

TEST_CASE("letters become lower and lose their accents, unless the vocabulary has case") {
  CHECK(small().encode("CAF\xC3\x89 cafe\xCC\x81") == Ids{11, 11});
  CHECK(small(false).encode("Caf\xC3\xA9") == Ids{12});
  CHECK(small(false).encode("CAFE") == Ids{1});
  CHECK(small().encode("\xE2\x89\xA0") == Ids{13});  // ≠ is = and a stroke
}

TEST_CASE("what is no text is dropped, and each Chinese character stands alone") {
  CHECK(small().encode("un\x01"
                       "af\xC2\xAD"
                       "f\xFF"
                       "able") == Ids{4, 5, 6});
  CHECK(small().encode("a\xE4\xBD\xA0"
                       "a") == Ids{7, 10, 7});
}

TEST_CASE("WordPiece may be divided behind white space") {
  CHECK(small().last_cut("unaffable, a\ncafe") == 13);
  CHECK(small().last_cut("unaffable") == 0);
}

TEST_CASE("a WordPiece vocabulary is the same behind its files and behind a run's state") {
  const ScratchFolder folder;
  const auto write = [&](const char* name, const char* text) {
    write_file_atomic((folder.path / name).string(), text);
  };
  write("vocab.txt", "[UNK]\n[CLS]\n[SEP]\nThe\nthe\n##me\r\n");
  const auto lower = open_tokenizer(folder.path);
  CHECK(lower->encode("The Theme") == Ids{4, 4, 5});
  CHECK(lower->begin_of_text() == 1);
  CHECK(lower->end_of_text() == 2);
  write("tokenizer_config.json", R"({"do_lower_case": false})");
  const auto cased = open_tokenizer(folder.path, 10);
  CHECK(cased->encode("The Theme") == Ids{3, 3, 5});
  CHECK(cased->vocabulary() == 10);
  const auto stored = from_json<Choice<Tokenizer>>(parse_json(cased->state().dump(), "state"));
  CHECK(stored.build(DataContext{})->encode("The Theme") == Ids{3, 3, 5});
  CHECK_THROWS_WITH_AS(open_tokenizer(folder.path, 5),
                       doctest::Contains("6 tokens, the model only"), Error);

  write("tokenizer.json", R"({"model": {"type": "WordPiece", "vocab": {"[UNK]": 0, "a": 1}},
    "normalizer": {"type": "BertNormalizer", "lowercase": true},
    "pre_tokenizer": {"type": "BertPreTokenizer"},
    "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "[CLS]"}},
      {"Sequence": {"id": "A"}}, {"SpecialToken": {"id": "[SEP]"}}]},
    "added_tokens": [{"id": 2, "content": "[CLS]"}, {"id": 3, "content": "[SEP]"}]})");
  const auto from_json_file = open_tokenizer(folder.path);
  CHECK(from_json_file->encode("A b") == Ids{1, 0});
  CHECK(from_json_file->begin_of_text() == 2);
  CHECK(from_json_file->end_of_text() == 3);
}

TEST_CASE("files that are no WordPiece vocabulary are refused in one line that names them") {
  const ScratchFolder folder;
  const auto refused = [&](const char* name, const char* text, const char* why) {
    const std::string path = (folder.path / name).string();
    write_file_atomic(path, text);
    CHECK_THROWS_WITH_AS(open_tokenizer(path), doctest::Contains(why), Error);
  };
  refused("a.txt", "the\nof\n", "has no \"[UNK]\"");
  refused("b.json", R"({"model": {"type": "WordPiece", "vocab": {"[UNK]": 0}},
    "normalizer": {"type": "Lowercase"}})",
          "only BERT's are known");
  refused("c.json", R"({"model": {"type": "WordPiece", "vocab": {"[UNK]": 1}}})", "ids must be 0");
  CHECK_THROWS_WITH_AS(open_tokenizer(folder.path / "none.txt"), doctest::Contains("no such file"),
                       Error);
}

// Of the vocabulary's publication and of well-known examples.
TEST_CASE("BERT's ids") {
  const auto folder = data_folder("tokenizer_bert");
  if (!folder) return;
  const auto t = open_tokenizer(*folder);
  CHECK(t->vocabulary() == 30522);
  CHECK(t->encode("Hello, world!") == Ids{7592, 1010, 2088, 999});
  CHECK(t->encode("unaffable") == Ids{14477, 20961, 3468});
  CHECK(t->begin_of_text() == 101);
  CHECK(t->end_of_text() == 102);
}
