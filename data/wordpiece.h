// WordPiece (Schuster & Nakajima 2012), as BERT uses it (Devlin et al. 2019).
#pragma once

#include <unordered_map>

#include <nlohmann/json.hpp>

#include "tessera/data/dataset.h"
#include "tessera/data/tokenizer.h"

namespace tessera {

struct WordPieceModel {
  std::vector<std::string> tokens;  // the line number is the id; "##" begins what continues a word
  bool lowercase = true;            // letters lower, accents dropped
  std::string unknown = "[UNK]", begin = "[CLS]", end = "[SEP]";
};

// Text is cleaned (control characters dropped, invalid bytes too), cut at white space, around
// punctuation and around each Chinese character; a word is then the longest tokens from its left
// on. A word that has none, or more than 100 characters, is the unknown token. Decoding gives words
// with single spaces between, not the text that was encoded. Special tokens are never made from
// plain text.
class WordPieceTokenizer : public Tokenizer {
 public:
  struct Config {
    std::string path;
    Json model;
    TESSERA_FIELDS(f)
    {
      f("path", path,
        "a vocab.txt, a tokenizer.json, or a folder with one; tokenizer_config.json beside it says "
        "whether letters become lower");
      f("model", model, "instead of path: the vocabulary itself, as a run stores it");
    }
  };
  WordPieceTokenizer(const Config& config, const DataContext& context);
  explicit WordPieceTokenizer(WordPieceModel model);

  int64_t vocabulary() const override { return static_cast<int64_t>(model_.tokens.size()); }
  std::vector<int64_t> encode(std::string_view text) const override;
  std::string decode(std::span<const int64_t> ids) const override;
  size_t last_cut(std::string_view text) const override;
  std::optional<int64_t> begin_of_text() const override { return begin_; }
  std::optional<int64_t> end_of_text() const override { return end_; }
  Json state() const override;
  const WordPieceModel& model() const { return model_; }

 private:
  void encode_word(std::string_view word, std::vector<int64_t>& ids) const;

  WordPieceModel model_;
  std::unordered_map<std::string_view, int64_t> starts_, continuations_;  // these without "##"
  int64_t unknown_ = 0;
  std::optional<int64_t> begin_, end_;
};

// Errors name file and entry.
WordPieceModel read_wordpiece(const std::filesystem::path& path);

}  // namespace tessera
