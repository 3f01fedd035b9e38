#include "tessera/data/tokenizer.h"

#include <doctest/doctest.h>

#include "support.h"
#include "tessera/core/file.h"

using namespace tessera;

namespace {

std::unique_ptr<Tokenizer> build_tokenizer(const Json& config) {
  return from_json<Choice<Tokenizer>>(parse_json(config.dump(), "state")).build(DataContext{});
}

}  // namespace

TEST_CASE("the char tokenizer numbers code points in order and makes the round trip") {
  CharTokenizer tokenizer;
  const std::string text = "b\u00e9a\xFF\u20ac\n";
  tokenizer.learn(text);
  CHECK(tokenizer.vocabulary() == 6);
  CHECK(tokenizer.encode("\nab\u00e9\u20ac\xFF") == std::vector<int64_t>{0, 1, 2, 3, 4, 5});
  CHECK(tokenizer.decode(tokenizer.encode(text)) == text);
}

TEST_CASE("an unknown character is named with its place") {
  CharTokenizer tokenizer;
  tokenizer.learn("abc");
  CHECK_THROWS_WITH_AS(tokenizer.encode("ab\u00e9"),
                       doctest::Contains("char tokenizer: '\u00e9' (U+00E9) at byte 2"), Error);
  CHECK_THROWS_WITH_AS(tokenizer.encode("a\xFE"), doctest::Contains("byte 0xFE at byte 1"), Error);
  CHECK_THROWS_WITH_AS(tokenizer.decode(std::vector<int64_t>{3}),
                       doctest::Contains("id 3 is outside the vocabulary of 3"), Error);
  CHECK_THROWS_WITH_AS(CharTokenizer().encode("a"), doctest::Contains("0 characters"), Error);
}

TEST_CASE("the byte tokenizer takes any bytes") {
  const ByteTokenizer tokenizer;
  std::string text;
  for (int i = 0; i < 256; ++i) text.push_back(static_cast<char>(i));
  CHECK(tokenizer.encode(text) == range(256));
  CHECK(tokenizer.decode(range(256)) == text);
  CHECK_THROWS_WITH_AS(tokenizer.decode(std::vector<int64_t>{-1}), doctest::Contains("id -1"),
                       Error);
}

TEST_CASE("a tokenizer built from its state encodes as before") {
  CharTokenizer tokenizer;
  tokenizer.learn("hello w\u00f6rld \xC3");
  for (const Tokenizer* original : {static_cast<const Tokenizer*>(&tokenizer)}) {
    const auto copy = build_tokenizer(original->state());
    CHECK(copy->vocabulary() == original->vocabulary());
    CHECK(copy->encode("w\u00f6 \xC3") == original->encode("w\u00f6 \xC3"));
    copy->learn("another text");
    CHECK(copy->vocabulary() == original->vocabulary());
  }
  CHECK(build_tokenizer(ByteTokenizer().state())->vocabulary() == 256);
}

TEST_CASE("a stored alphabet that cannot be is refused") {
  for (const char* alphabet : {"[3, 3]", "[5, 2]", "[-1]", "[1114368]"}) {
    const std::string config = std::string(R"({"type": "char", "alphabet": )") + alphabet + "}";
    CHECK_THROWS_WITH(build_tokenizer(parse_json(config, "test")), doctest::Contains("alphabet"));
  }
}

TEST_CASE("tiny Shakespeare has 65 characters and its customary split") {
  const auto folder = data_folder("tiny_shakespeare");
  if (!folder) return;
  const auto data = make_dataset(R"({"type": "text", "path": "tiny_shakespeare/input.txt"})");
  CHECK(data->info().vocabulary == 65);
  CHECK(data->size(Split::train) == 1'003'854 - 64);
  CHECK(data->size(Split::validation) == (111'540 - 1) / 64);
  const std::string text = read_file((*folder / "input.txt").string());
  CHECK(text.size() == 1'115'394);
  CHECK(data->tokenizer()->decode(data->tokenizer()->encode(text)) == text);
  const Batch batch = data->get(Split::train, std::vector<int64_t>{0, 5}, 1);
  const auto tokens = batch.at("tokens").to_vector<int64_t>();
  CHECK(data->tokenizer()->decode({tokens.data(), 13}) == "First Citizen");
}
