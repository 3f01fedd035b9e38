// Ids against those of the libraries that the vocabularies come from; scripts/reference_tokens.py
// made the figures.
#include <doctest/doctest.h>
#include <fmt/ranges.h>

#include <map>

#include "support.h"
#include "tessera/core/file.h"
#include "tessera/data/bpe.h"
#include "tessera/data/gzip.h"
#include "tessera/data/tokenizer_files.h"

using namespace tessera;

namespace {
namespace fs = std::filesystem;

const fs::path kFigures = fs::path(TESSERA_SOURCE_DIR) / "tests/data/reference";

// GPT-2's vocabulary, cut as Llama 3 does it.
std::unique_ptr<Tokenizer> llama3(const fs::path& tokenizer_json) {
  BpeModel model = read_bpe(tokenizer_json);
  model.pieces = PieceRule::llama3;
  model.whole_first = true;
  return std::make_unique<BpeTokenizer>(std::move(model));
}

using Tokenizers = std::map<std::string, std::unique_ptr<Tokenizer>>;

// By their names in the figures; none where the tests run without their sources.
Tokenizers reference_tokenizers() {
  Tokenizers all;
  if (!fs::exists(kFigures)) {
    MESSAGE("skipped: no " << kFigures.string());
    return all;
  }
  all["llama2"] = open_tokenizer(kFigures / "pieces.json");
  all["sentencepiece"] = open_tokenizer(kFigures / "pieces.bin");
  if (const auto folder = data_folder("tokenizer_bert")) all["wordpiece"] = open_tokenizer(*folder);
  if (const auto folder = data_folder("tokenizer_gpt2")) all["gpt2"] = open_tokenizer(*folder);
  if (const auto folder = data_folder("safetensors_small/tiny_gpt2_vocab50257")) {
    all["llama3"] = llama3(*folder / "tokenizer.json");
  }
  return all;
}

std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i < hex.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  }
  return bytes;
}

}  // namespace

TEST_CASE("difficult strings have the ids of the reference tokenizers") {
  for (const auto& entry : reference_tokenizers()) {
    const auto& [name, tokenizer] = entry;
    const Json figures = read_json(kFigures / "ids.json");
    for (const Json& row : figures.at("strings")) {
      INFO(entry.first);
      CAPTURE(row.at("hex").get<std::string>());
      const std::string text = from_hex(row.at("hex").get<std::string>());
      CHECK(tokenizer->encode(text) == row.at(name).get<std::vector<int64_t>>());
    }
  }
}

TEST_CASE("whole texts have the ids of the reference tokenizers, encoded in parts too") {
  const char* root = std::getenv("TESSERA_DATA_DIR");
  const Tokenizers tokenizers = reference_tokenizers();
  if (root == nullptr || tokenizers.empty()) {
    MESSAGE("skipped: TESSERA_DATA_DIR is not set");
    return;
  }
  const Json figures = read_json(kFigures / "ids.json");
  for (const Json& row : figures.at("texts")) {
    const fs::path file = fs::path(root) / row.at("file").get<std::string>();
    if (!fs::exists(file)) continue;
    const std::string text = read_file(file.string());
    for (const auto& entry : tokenizers) {
      const auto& [name, tokenizer] = entry;
      if (!row.contains(name)) continue;
      CAPTURE(file.string());
      INFO(entry.first);
      const auto ids = tokenizer->encode(text);
      CHECK(static_cast<int64_t>(ids.size()) == row.at(name)[0].get<int64_t>());
      CHECK(crc32(fmt::format("{}", fmt::join(ids, " "))) == row.at(name)[1].get<uint32_t>());
      const std::string_view first = std::string_view(text).substr(0, text.size() / 3);
      const size_t cut = tokenizer->last_cut(first);
      REQUIRE(cut > 0);
      auto parts = tokenizer->encode(first.substr(0, cut));
      const auto rest = tokenizer->encode_more(std::string_view(text).substr(cut));
      parts.insert(parts.end(), rest.begin(), rest.end());
      CHECK(parts == ids);
    }
  }
}

TEST_CASE("invalid bytes are encoded and come back") {
  std::string bytes = "caf\xC3 \xFF\xFEx\xE4\xBD \xF0\x9F\x98 \xED\xA0\x80 \xC0\xAF ok";
  for (const auto& entry : reference_tokenizers()) {
    const auto& [name, tokenizer] = entry;
    if (name == "wordpiece") continue;  // drops them
    INFO(entry.first);
    const std::string text = tokenizer->decode(tokenizer->encode(bytes));
    const bool prefixed = name == "llama2" || name == "sentencepiece";
    CHECK(text == (prefixed ? " " + bytes : bytes));
  }
}

TEST_CASE("every cut leaves the ids as they are") {
  const std::string text =
      "It's  they'LL\r\n\r\n\t x\xC3\xA9\xCC\x81 a  b c\n\nd\n e 12 345x\nab cd   \n\n  !?\nok go";
  for (const auto& entry : reference_tokenizers()) {
    const auto& [name, tokenizer] = entry;
    INFO(entry.first);
    const auto ids = tokenizer->encode(text);
    for (size_t size = 1; size <= text.size(); ++size) {
      CAPTURE(size);
      const size_t cut = tokenizer->last_cut(std::string_view(text).substr(0, size));
      if (cut == 0) continue;
      auto parts = tokenizer->encode(std::string_view(text).substr(0, cut));
      const auto rest = tokenizer->encode_more(std::string_view(text).substr(cut));
      parts.insert(parts.end(), rest.begin(), rest.end());
      CHECK(parts == ids);
    }
  }
}

TEST_CASE("a vocabulary of llama2.c that is cut short or something else says so") {
  if (!fs::exists(kFigures)) return;
  const ScratchFolder folder;
  const std::string whole = read_file((kFigures / "pieces.bin").string());
  const auto refuse = [&](const std::string& bytes, const char* why) {
    const auto file = folder.write("x.bin", bytes);
    CHECK_THROWS_WITH_AS(open_tokenizer(file), doctest::Contains(why), Error);
  };
  refuse("", "cut short");
  refuse(whole.substr(0, whole.size() - 1), "cut short, wants 1 bytes more");
  refuse(whole.substr(0, 4), "0 tokens; wants 3 special ones");
  refuse(std::string(64, '\xFF'), "not a tokenizer of llama2.c");
}
